package nodeid

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func mustGenerate(t testing.TB) Key {
	t.Helper()
	k, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustSign(t testing.TB, k Key, request []byte) (key, proof string) {
	t.Helper()
	key, proof, err := k.Sign(request)
	if err != nil {
		t.Fatal(err)
	}
	return key, proof
}

func TestProofTellsWhoSigned(t *testing.T) {
	t.Parallel()
	k := mustGenerate(t)
	key, proof := mustSign(t, k, []byte("request"))
	got, err := Verify([]byte("request"), key, proof)
	if err != nil {
		t.Fatal(err)
	}
	want, err := k.Fingerprint()
	if err != nil {
		t.Fatal(err)
	}
	if got != want || len(got) != 64 {
		t.Errorf("fingerprint %q, want %q", got, want)
	}
}

func TestBadProofsAreRefused(t *testing.T) {
	t.Parallel()
	request := []byte("request")
	key, proof := mustSign(t, mustGenerate(t), request)
	otherKey, otherProof := mustSign(t, mustGenerate(t), request)

	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wrongCurve := spki(t, p384.Public())
	edKey, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct{ request, key, proof string }{
		"another request":   {"other", key, proof},
		"another key":       {"request", otherKey, proof},
		"another proof":     {"request", key, otherProof},
		"no key":            {"request", "", proof},
		"no proof":          {"request", key, ""},
		"wrong curve":       {"request", wrongCurve, proof},
		"another algorithm": {"request", spki(t, edKey), proof},
		"not base64":        {"request", key, "%"},
		"base64 with lines": {"request", key[:10] + "\n" + key[10:], proof},
		"trailing data":     {"request", base64.StdEncoding.EncodeToString(append(mustDecode(t, key), 0)), proof},
		"too long":          {"request", strings.Repeat("A", 1<<20), proof},
	}
	for name, tt := range tests {
		if _, err := Verify([]byte(tt.request), tt.key, tt.proof); !errors.Is(err, ErrProof) {
			t.Errorf("%s: got %v, want ErrProof", name, err)
		}
	}
}

func spki(t *testing.T, public any) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func mustDecode(t *testing.T, text string) []byte {
	t.Helper()
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestParseReadsOnlyP256(t *testing.T) {
	t.Parallel()
	k := mustGenerate(t)
	data, err := k.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(data)
	if err != nil || !again.private.Equal(k.private) {
		t.Fatalf("own key is not read: %v", err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty": nil, "no PEM": []byte("secret"), "trailing": append(bytes.Clone(data), 'x'),
		"wrong curve": pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}),
	} {
		if _, err := Parse(data); !errors.Is(err, ErrKey) {
			t.Errorf("%s: got %v, want ErrKey", name, err)
		}
	}
}

func TestKeyIsMadeOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "node", "identity.key")
	first, fresh, err := LoadOrGenerate(path)
	if err != nil || !fresh {
		t.Fatalf("without a file: fresh %v, %v", fresh, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("it was kept before Save: %v", err)
	}
	if err := first.Save(path); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	second, fresh, err := LoadOrGenerate(path)
	if err != nil || fresh || !second.private.Equal(first.private) {
		t.Errorf("the second call gave another key: %v", err)
	}
	if err := os.WriteFile(path, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := LoadOrGenerate(path); !errors.Is(err, ErrKey) {
		t.Errorf("a damaged key: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	key, proof := mustSign(f, mustGenerate(f), []byte("request"))
	f.Add([]byte("request"), key, proof)
	f.Add([]byte(""), "", "")
	f.Fuzz(func(t *testing.T, request []byte, k, p string) {
		if fp, err := Verify(request, k, p); err == nil && len(fp) != 64 {
			t.Fatalf("fingerprint %q", fp)
		}
	})
}

func FuzzParse(f *testing.F) {
	data, err := mustGenerate(f).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := Parse(data); err == nil {
			if _, err := k.Marshal(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
