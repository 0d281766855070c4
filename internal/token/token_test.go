package token_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"strings"
	"testing"

	"github.com/limpetio/limpet/internal/token"
)

const (
	hash      = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	bootstrap = "abc123.0123456789abcdef"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		bootstrap:                       bootstrap,
		"L10" + hash + "::" + bootstrap: "L10" + hash + "::" + bootstrap,
		"L10" + strings.ToUpper(hash) + "::" + bootstrap + "\n": "L10" + hash + "::" + bootstrap,
		" " + bootstrap + "\r\n":                                bootstrap,
	} {
		got, err := token.Parse(text)
		if err != nil {
			t.Errorf("Parse(%q): %v", text, err)
			continue
		}
		if got.String() != want {
			t.Errorf("Parse(%q) = %q, want %q", text, got, want)
		}
		if got.Bootstrap() != bootstrap || got.ID() != "abc123" || got.Secret() != "0123456789abcdef" {
			t.Errorf("Parse(%q): bootstrap token %q", text, got.Bootstrap())
		}
		if got.Pinned() != strings.HasPrefix(want, "L10") {
			t.Errorf("Parse(%q): pinned %v", text, got.Pinned())
		}
	}
}

func TestParseTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		part token.Part
		says string
	}{
		{"", token.PartForm, "empty"},
		{" \n", token.PartForm, "empty"},
		{"my-old-k3s-password", token.PartForm, "limpet token generate"},
		{"K10" + hash + "::server:0123456789abcdef", token.PartForm, "k3s"},
		{"X10" + hash + "::" + bootstrap, token.PartForm, "begin with L10"},
		{"L10" + hash, token.PartForm, "ends before"},
		{"abc123.0123456789 abcdef", token.PartForm, "white space"},
		{strings.Repeat("x", 5000), token.PartForm, "5000 characters"},
		{"L10" + hash[1:] + "::" + bootstrap, token.PartHash, "63 characters instead of 64"},
		{"L10" + hash[1:] + "g::" + bootstrap, token.PartHash, "not hex digits"},
		{"L10" + hash + "::", token.PartForm, "limpet token create"},
		{"abc12.0123456789abcdef", token.PartID, "has 5 characters"},
		{"ABC123.0123456789abcdef", token.PartID, "upper-case"},
		{"abc-23.0123456789abcdef", token.PartID, "other characters"},
		{"abc123.0123456789abcde", token.PartSecret, "has 15 characters"},
		{"abc123.0123456789ABCDEF", token.PartSecret, "upper-case"},
		{"abc123.0123456789abcde.", token.PartSecret, "other characters"},
	} {
		_, err := token.Parse(c.text)
		var parse *token.Error
		if !errors.As(err, &parse) {
			t.Errorf("Parse(%q): error %v is no *token.Error", c.text, err)
			continue
		}
		if parse.Part != c.part || !strings.Contains(err.Error(), c.says) {
			t.Errorf("Parse(%q): part %s, %q; want part %s and %q", c.text, parse.Part, err, c.part, c.says)
		}
		for _, secret := range []string{"0123456789", "my-old", hash[1:60]} {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("Parse(%q): the error repeats the token: %v", c.text, err)
			}
		}
	}
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	letters := map[rune]bool{}
	for range 200 {
		made := token.Generate()
		parsed, err := token.Parse(made.String())
		if err != nil || !parsed.Equal(made) {
			t.Fatalf("a generated token is refused: %v", err)
		}
		if seen[made.Secret()] {
			t.Fatal("the same secret twice")
		}
		seen[made.Secret()] = true
		for _, r := range made.Secret() {
			letters[r] = true
		}
		if again := made.GenerateSecret(); again.ID() != made.ID() || again.Equal(made) {
			t.Fatal("GenerateSecret has to keep the id and change the secret")
		}
	}
	if len(letters) != 36 {
		t.Errorf("%d different characters in 3200, want all 36", len(letters))
	}
}

func TestEqual(t *testing.T) {
	t.Parallel()
	a, err := token.Parse(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	if !a.Equal(a.WithCA(token.HashCA([]byte("x")))) {
		t.Error("short and full form of a token differ")
	}
	for _, text := range []string{"abc124.0123456789abcdef", "abc123.0123456789abcdee"} {
		b, err := token.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if a.Equal(b) {
			t.Errorf("%s equals %s", a, b)
		}
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	root, leaf := certificate(t, "root", "root"), certificate(t, "leaf", "root")
	short := token.Generate()
	pinned := short.WithCA(token.HashCA(root.Raw))
	bundle := []*x509.Certificate{leaf, root}
	if token.Root(bundle) != root {
		t.Error("Root: not the self-signed one")
	}
	if token.Root([]*x509.Certificate{leaf}) != leaf || token.Root(nil) != nil {
		t.Error("Root of a chain without its root, or of nothing")
	}
	if pinned.Find(bundle) != root || short.Find(bundle) != nil {
		t.Error("Find: want the named certificate, and none for a short token")
	}
	if pinned.Matches(leaf.Raw) || short.Matches(root.Raw) || !pinned.Matches(root.Raw) {
		t.Error("Matches")
	}
}

func TestLogsHideTheSecret(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	made := token.Generate()
	slog.New(slog.NewTextHandler(&out, nil)).Info("joining", "token", made)
	if strings.Contains(out.String(), made.Secret()) || !strings.Contains(out.String(), made.ID()) {
		t.Errorf("log line %q has to name the id and not the secret", out.String())
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"", bootstrap, "L10" + hash + "::" + bootstrap, "K10x::y", "a.b", "::", "L10::."} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := token.Parse(text)
		if err != nil {
			if parse := (*token.Error)(nil); !errors.As(err, &parse) {
				t.Fatalf("error of another type: %v", err)
			}
			return
		}
		again, err := token.Parse(got.String())
		if err != nil || again != got {
			t.Fatalf("%q reads as %q, which reads as %q, %v", text, got, again, err)
		}
	})
}

func certificate(t *testing.T, subject, issuer string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	name := func(cn string) *x509.Certificate {
		return &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn}}
	}
	der, err := x509.CreateCertificate(rand.Reader, name(subject), name(issuer), key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
