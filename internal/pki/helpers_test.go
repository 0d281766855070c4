package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// today is a plausible time to run at; tests move the clock relative to it.
var today = time.Date(2027, time.March, 1, 12, 0, 0, 0, time.UTC)

func serving() Leaf {
	return Leaf{
		CommonName: "kube-apiserver",
		DNSNames:   []string{"localhost", "kubernetes", "kubernetes"},
		IPs:        []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"), netip.MustParseAddr("::ffff:10.43.0.1")},
		Usages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func mustOpen(t testing.TB, dir string, now time.Time) *Authority {
	t.Helper()
	a, err := Open(dir, Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func mustEnsure(t testing.TB, ca *CA, name string, want Leaf) Issued {
	t.Helper()
	got, err := ca.Ensure(name, want)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func loadPair(t testing.TB, pair KeyPair) (tls.Certificate, *x509.Certificate) {
	t.Helper()
	both, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return both, both.Leaf
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustWrite(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// userCA makes a certificate as a user's own tooling would; parent nil makes a
// root.
func userCA(t testing.TB, name string, parent *x509.Certificate, parentKey crypto.Signer) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: today.Add(-time.Hour), NotAfter: today.Add(5 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func putCA(t testing.TB, dir, name string, key crypto.Signer, bundle ...*x509.Certificate) {
	t.Helper()
	keyPEM, err := encodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, filepath.Join(dir, name+".crt"), encodeCerts(bundle...))
	mustWrite(t, filepath.Join(dir, name+".key"), keyPEM)
}
