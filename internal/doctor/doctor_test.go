package doctor

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	found := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Mode != 0o600 {
			t.Errorf("%s has mode %o", h.Name, h.Mode)
		}
		found[strings.TrimPrefix(h.Name, "limpet-doctor/")] = string(data)
	}
}

func TestPack(t *testing.T) {
	t.Parallel()
	archive, err := pack(t.Context(), []part{
		{"a.txt", func(context.Context) (string, error) {
			return "password: hunter2\nlast", errors.New("half: token=hunter3")
		}},
		{"b.txt", func(context.Context) (string, error) { return strings.Repeat("line\n", maxPart/5+10), nil }},
	}, NewRedactor(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	found := unpack(t, archive)
	if got := found["a.txt"]; strings.Contains(got, "hunter") || !strings.Contains(got, "last") || !strings.Contains(got, "not all of this") {
		t.Errorf("%q", got)
	}
	if got := found["b.txt"]; len(got) > maxPart+100 || !strings.HasPrefix(got, "(what was before is left out)\nline\n") {
		t.Errorf("%d bytes: %.60q", len(got), got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pack(ctx, []part{{"a", nil}}, NewRedactor(), time.Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// Secrets are planted wherever limpet and its users keep some; none is in the archive.
func TestNoSecretLeaves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	plant := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const secret = "pl4nt3dsecret000" // 16 characters, as in a token
	token := "L10" + strings.Repeat("0a", 32) + "::abcdef." + secret
	plant("server/token", token+"\n")
	plant("server/tls/ca.key", keyPEM)
	plant("server/tls/both.pem", keyPEM+"\n"+certificate(t))
	plant("server/cred/admin.kubeconfig", "client-key-data: "+secret)
	plant("agent/etc/cni/net.d/10-x.conflist", `{"password":"`+secret+`"}`)
	log := plant("limpet.log", strings.Join([]string{
		"joined with " + token, "only " + secret, "connect https://shop:" + secret + "@10.0.0.5/", "Authorization: Bearer " + secret,
		"args [--token " + secret + "]", keyPEM, "known own-known-value here",
	}, "\n"))
	var out strings.Builder
	file := filepath.Join(dir, "out.tar.zst")
	err := Run(t.Context(), Options{
		File: file, LogFile: log, DataDir: dir, Config: "cluster-domain: shop\n", Problems: errors.New("token " + secret + " is wrong"),
		Kubeconfig: filepath.Join(dir, "none"), Secrets: []string{"own-known-value"}, Out: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	archive, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := unpack(t, archive)
	found["the terminal"] = out.String()
	for name, text := range found {
		for _, planted := range []string{secret, "MHcCAQEE", "own-known-value"} {
			if strings.Contains(text, planted) {
				t.Errorf("%s has the secret %s", name, planted)
			}
		}
	}
	for name, want := range map[string]string{
		"config.yaml": "cluster-domain: shop", "log.txt": "joined with", "certificates.txt": "EXPIRED", "data-directory.txt": "ca.key",
		"check-config.txt": "kernel", "mounts.txt": " / ", "interfaces.txt": "lo mtu", "disk.txt": "MiB free", "pods.txt": "on a server only",
		"judgement.txt": "the configuration has mistakes", "status.txt": "(not all of this", "the terminal": "certificate ",
	} {
		if !strings.Contains(found[name], want) {
			t.Errorf("%s has no %q: %.300s", name, want, found[name])
		}
	}
}

// certificate is one that has expired.
func certificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
