package pki

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOpenCreatesOnceAndReuses(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "server", "tls")
	first := mustOpen(t, dir, today)
	again := mustOpen(t, dir, today.Add(3*365*24*time.Hour))

	for _, c := range []struct{ a, b *CA }{
		{first.Server, again.Server}, {first.Client, again.Client}, {first.RequestHeader, again.RequestHeader},
	} {
		if !c.a.Signer().Equal(c.b.Signer()) {
			t.Errorf("%s changed between two starts", c.a.File())
		}
		if got := c.a.Signer().NotAfter.Sub(today); got != CALife {
			t.Errorf("%s lives %v, want %v", c.a.File(), got, CALife)
		}
		assertMode(t, c.a.File(), 0o644)
		assertMode(t, strings.TrimSuffix(c.a.File(), ".crt")+".key", 0o600)
	}
	if first.Server.Signer().Equal(first.Client.Signer()) {
		t.Error("server and client authority are the same")
	}
	assertMode(t, dir, 0o700)
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("hidden files left behind: %v", left)
	}
}

func TestOpenTightensDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, dir, today)
	assertMode(t, dir, 0o700)
}

func TestOpenRefusesDamagedAuthority(t *testing.T) {
	t.Parallel()
	other := t.TempDir()
	mustOpen(t, other, today)
	foreignKey := mustRead(t, filepath.Join(other, "server-ca.key"))
	for _, tt := range []struct {
		name string
		file string
		edit func(data []byte) []byte // nil: remove the file
		want string
	}{
		{"certificate truncated", "server-ca.crt", func(d []byte) []byte { return d[:len(d)/2] }, "server-ca.crt cannot be used"},
		{"certificate empty", "client-ca.crt", func([]byte) []byte { return nil }, "client-ca.crt cannot be used"},
		{"certificate zeroed", "server-ca.crt", func(d []byte) []byte { return make([]byte, len(d)) }, "server-ca.crt cannot be used"},
		{"certificate bit flipped", "server-ca.crt", func(d []byte) []byte { d[60] ^= 1; return d }, "server-ca"},
		{"certificate missing", "server-ca.crt", nil, "server-ca.crt is missing"},
		{"key truncated", "request-header-ca.key", func(d []byte) []byte { return d[:40] }, "request-header-ca.key cannot be used"},
		{"key missing", "server-ca.key", nil, "server-ca.key is missing"},
		{"key of another", "server-ca.key", func([]byte) []byte { return foreignKey }, "belongs to none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			mustOpen(t, dir, today)
			path := filepath.Join(dir, tt.file)
			secret := mustRead(t, strings.TrimSuffix(path, filepath.Ext(path))+".key")
			var damaged []byte
			if tt.edit == nil {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			} else {
				damaged = tt.edit(mustRead(t, path))
				mustWrite(t, path, damaged)
			}
			_, err := Open(dir, Options{Now: today})
			if err == nil {
				t.Fatal("Open accepted it")
			}
			for _, want := range []string{tt.want, path, "backup"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), string(secret[30:60])) {
				t.Errorf("error %q shows key material", err)
			}
			if tt.edit == nil && exists(path) {
				t.Errorf("%s was made anew", path)
			}
			if tt.edit != nil && !bytes.Equal(mustRead(t, path), damaged) {
				t.Errorf("%s was overwritten", path)
			}
		})
	}
}

// A power cut may fall between any two of the writes that create an authority.
func TestOpenCompletesInterruptedCreation(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		missing []string
	}{
		{"nothing installed", []string{"server-ca.crt", "server-ca.key"}},
		{"key installed", []string{"server-ca.crt"}},
		{"all installed", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			before := mustOpen(t, dir, today).Server
			pending := append(mustRead(t, filepath.Join(dir, "server-ca.crt")), mustRead(t, filepath.Join(dir, "server-ca.key"))...)
			mustWrite(t, filepath.Join(dir, ".server-ca.pending"), pending)
			for _, name := range tt.missing {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			if after := mustOpen(t, dir, today).Server; !after.Signer().Equal(before.Signer()) {
				t.Error("another authority was created")
			}
			if exists(filepath.Join(dir, ".server-ca.pending")) {
				t.Error("the pending file is still there")
			}
		})
	}
}

func TestOpenRefusesWhatCannotSign(t *testing.T) {
	t.Parallel()
	root, rootKey := userCA(t, "root", nil, nil)

	t.Run("leaf as authority", func(t *testing.T) {
		t.Parallel()
		dir, work := t.TempDir(), t.TempDir()
		putCA(t, work, "server-ca", rootKey, root)
		issued := mustEnsure(t, mustOpen(t, work, today).Server, "leaf", serving())
		pemData := mustRead(t, issued.Cert)
		mustWrite(t, filepath.Join(dir, "server-ca.crt"), pemData)
		mustWrite(t, filepath.Join(dir, "server-ca.key"), pemData)
		if _, err := Open(dir, Options{Now: today}); err == nil || !strings.Contains(err.Error(), "may not sign") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("expired", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		putCA(t, dir, "server-ca", rootKey, root)
		_, err := Open(dir, Options{Now: root.NotAfter.Add(time.Hour)})
		if err == nil || !strings.Contains(err.Error(), "expired on") || !strings.Contains(err.Error(), "server-ca.crt") {
			t.Errorf("got %v", err)
		}
	})
}

// Someone who knows only the root must be able to verify what an intermediate
// authority signed.
func TestUserProvidedIntermediate(t *testing.T) {
	t.Parallel()
	root, rootKey := userCA(t, "root", nil, nil)
	middle, middleKey := userCA(t, "middle", root, rootKey)
	for _, bundle := range [][]*x509.Certificate{{middle, root}, {root, middle}, {middle}} {
		dir := t.TempDir()
		putCA(t, dir, "server-ca", middleKey, bundle...)
		ca := mustOpen(t, dir, today).Server
		if !ca.Signer().Equal(middle) {
			t.Fatalf("signer is %s, want the intermediate", ca.Signer().Subject)
		}
		if alone, err := decodeCerts(mustRead(t, ca.SignerFile())); err != nil || len(alone) != 1 || !alone[0].Equal(middle) {
			t.Errorf("bundle of %d: %s does not hold the signer alone: %v", len(bundle), ca.SignerFile(), err)
		}
		issued := mustEnsure(t, ca, "kube-apiserver", serving())
		pair, leaf := loadPair(t, issued.KeyPair)
		roots, between := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(root)
		for _, der := range pair.Certificate[1:] {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				t.Fatal(err)
			}
			between.AddCert(c)
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: "kubernetes", CurrentTime: today}); err != nil {
			t.Errorf("bundle of %d: %v", len(bundle), err)
		}
		if again := mustEnsure(t, ca, "kube-apiserver", serving()); again.Reason != "" {
			t.Errorf("issued again: %s", again.Reason)
		}
	}
}

func assertMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s has mode %v, want %v", path, got, want)
	}
}
