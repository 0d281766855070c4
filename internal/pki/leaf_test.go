package pki

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const day = 24 * time.Hour

func TestEnsureIssuesWhatWasAsked(t *testing.T) {
	t.Parallel()
	ca := mustOpen(t, t.TempDir(), today).Server
	issued := mustEnsure(t, ca, "kube-apiserver", serving())
	if issued.Reason != "it does not exist" {
		t.Errorf("reason %q", issued.Reason)
	}
	_, leaf := loadPair(t, issued.KeyPair)
	if got := leaf.NotAfter.Sub(today); got != LeafLife {
		t.Errorf("lives %v, want %v", got, LeafLife)
	}
	if got := today.Sub(leaf.NotBefore); got != time.Hour {
		t.Errorf("backdated by %v, want 1h", got)
	}
	if leaf.IsCA || leaf.SerialNumber.Sign() <= 0 {
		t.Errorf("IsCA %v, serial %v", leaf.IsCA, leaf.SerialNumber)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.Signer())
	for _, name := range []string{"localhost", "kubernetes", "127.0.0.1", "::1", "10.43.0.1"} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: today}); err != nil {
			t.Errorf("as %s: %v", name, err)
		}
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "example.org", CurrentTime: today}); err == nil {
		t.Error("verified for a name that was not asked for")
	}
	assertMode(t, issued.Cert, 0o600)
}

func TestNeedsReissue(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	auth := mustOpen(t, dir, today)
	ca := auth.Server
	good := mustRead(t, mustEnsure(t, ca, "good", serving()).Cert)
	other := mustRead(t, mustEnsure(t, ca, "other", serving()).Cert)
	foreign := mustRead(t, mustEnsure(t, auth.Client, "foreign", serving()).Cert)
	keyAt := func(pem []byte) int { return bytes.Index(pem, []byte("-----BEGIN PRIVATE KEY")) }
	cert, key, otherKey := good[:keyAt(good)], good[keyAt(good):], other[keyAt(other):]

	change := func(edit func(*Leaf)) Leaf {
		l := serving()
		edit(&l)
		return l
	}
	same := serving()
	shuffled := change(func(l *Leaf) { slices.Reverse(l.DNSNames); slices.Reverse(l.IPs) })
	for _, tt := range []struct {
		name string
		data []byte
		want Leaf
		now  time.Time
		why  string // "" means: keep
	}{
		{"fresh", good, same, today, ""},
		{"order and duplicates do not count", good, shuffled, today, ""},
		{"just over a third left", good, same, today.Add(LeafLife - renewBefore), ""},
		{"less than a third left", good, same, today.Add(LeafLife - renewBefore + time.Second), "expires in 121 days"},
		{"expired", good, same, today.Add(LeafLife + day), "it expired on"},
		{"clock back a year", good, same, today.Add(-365 * day), "clock was set back"},
		{"clock back to the epoch", good, same, time.Unix(5, 0), "clock was set back"},
		{"empty file", nil, same, today, "cannot be read"},
		{"zeroes", make([]byte, 2000), same, today, "cannot be read"},
		{"cut in the certificate", good[:200], same, today, "cannot be read"},
		{"cut in the key", good[:len(good)-20], same, today, "key cannot be read"},
		{"only the certificate", cert, same, today, "key cannot be read"},
		{"only the key", key, same, today, "cannot be read"},
		{"key of another", slices.Concat(cert, otherKey), same, today, "belongs to another certificate"},
		{"signed by another authority", foreign, same, today, "not signed by"},
		{"foreign certificate in between", slices.Concat(cert, encodeCerts(ca.Signer()), key), same, today, "intermediate"},
		{"new name", good, change(func(l *Leaf) { l.DNSNames = append(l.DNSNames, "edge.example") }), today, "DNS names changed: +edge.example"},
		{"name gone", good, change(func(l *Leaf) { l.DNSNames = l.DNSNames[1:] }), today, "DNS names changed: -localhost"},
		{"address changed", good, change(func(l *Leaf) { l.IPs[0] = netip.MustParseAddr("192.0.2.7") }), today, "addresses changed: +192.0.2.7 -127.0.0.1"},
		{"common name", good, change(func(l *Leaf) { l.CommonName = "x" }), today, `from "kube-apiserver" to "x"`},
		{"group", good, change(func(l *Leaf) { l.Organizations = []string{"system:nodes"} }), today, "groups changed: +system:nodes"},
		{"usage", good, change(func(l *Leaf) { l.Usages = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), today, "usage changed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			at := *ca
			at.now = tt.now
			got := needsReissue(tt.data, tt.want.normal(), &at, tt.now)
			if tt.why == "" && got != "" || !strings.Contains(got, tt.why) {
				t.Errorf("needsReissue = %q, want %q", got, tt.why)
			}
		})
	}
}

func TestEnsureHealsAndSettles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := mustOpen(t, dir, today).Client
	path := mustEnsure(t, ca, "admin", serving()).Cert
	mustWrite(t, path, mustRead(t, path)[:100])
	if got := mustEnsure(t, ca, "admin", serving()); !strings.Contains(got.Reason, "cannot be read") {
		t.Errorf("a truncated leaf was issued again for %q", got.Reason)
	}
	before := mustRead(t, path)
	if got := mustEnsure(t, ca, "admin", serving()); got.Reason != "" || !bytes.Equal(before, mustRead(t, path)) {
		t.Errorf("a good leaf was issued again: %q", got.Reason)
	}
}

// Where the end of the authority cuts leaves short, a new one would be no
// better: it must not be issued at every start.
func TestLeafEndsWithItsAuthority(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	end := mustOpen(t, dir, today).Server.Signer().NotAfter
	late := mustOpen(t, dir, end.Add(-30*day)).Server
	issued := mustEnsure(t, late, "leaf", serving())
	if _, leaf := loadPair(t, issued.KeyPair); !leaf.NotAfter.Equal(end) {
		t.Errorf("ends %v, want %v", leaf.NotAfter, end)
	}
	if again := mustEnsure(t, mustOpen(t, dir, end.Add(-29*day)).Server, "leaf", serving()); again.Reason != "" {
		t.Errorf("issued again: %s", again.Reason)
	}
}

// A board without a clock battery: created in 1970, then the network brings the
// time, then the battery is gone again.
func TestWrongClocks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	epoch := time.Unix(3600+7, 0)
	valid := func(when string, now time.Time) {
		t.Helper()
		ca := mustOpen(t, dir, now).Server
		_, leaf := loadPair(t, mustEnsure(t, ca, "leaf", serving()).KeyPair)
		roots := x509.NewCertPool()
		roots.AddCert(ca.Signer())
		for _, at := range []time.Time{now, now.Add(100 * day)} {
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at}); err != nil {
				t.Errorf("%s: at %v: %v", when, at, err)
			}
		}
	}
	valid("first start in 1970", epoch)
	_, leaf := loadPair(t, KeyPair{filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "leaf.pem")})
	if leaf.NotAfter.Before(today) {
		t.Errorf("the leaf made in 1970 ends %v: it would be of no use when the clock is set", leaf.NotAfter)
	}
	valid("clock set", today.Add(200*day)) // time for a new one
	_, before := loadPair(t, KeyPair{filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "leaf.pem")})
	valid("1970 again", epoch.Add(time.Hour))
	_, after := loadPair(t, KeyPair{filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "leaf.pem")})
	if after.NotAfter.Before(before.NotAfter) {
		t.Errorf("a clock that was set back shortened the leaf from %v to %v", before.NotAfter, after.NotAfter)
	}
	valid("clock set again", today.Add(201*day))
}

func TestEnsureConcurrently(t *testing.T) {
	t.Parallel()
	ca := mustOpen(t, t.TempDir(), today).Client
	var wg sync.WaitGroup
	for i := range 15 {
		wg.Go(func() {
			if _, err := ca.Ensure(fmt.Sprintf("leaf-%d", i%5), serving()); err != nil { // some names twice
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range 5 {
		if got := mustEnsure(t, ca, fmt.Sprintf("leaf-%d", i), serving()); got.Reason != "" {
			t.Errorf("leaf-%d is not good: %s", i, got.Reason)
		}
	}
}

func FuzzNeedsReissue(f *testing.F) {
	ca := mustOpen(f, f.TempDir(), today).Server
	want := serving().normal()
	good := mustRead(f, mustEnsure(f, ca, "good", serving()).Cert)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		// Whatever is accepted as good must really work for TLS.
		if needsReissue(data, want, ca, today) != "" {
			return
		}
		path := filepath.Join(t.TempDir(), "leaf.pem")
		mustWrite(t, path, data)
		loadPair(t, KeyPair{path, path})
	})
}
