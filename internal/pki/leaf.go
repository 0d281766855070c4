package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// Leaf says who or what a certificate is for.
type Leaf struct {
	CommonName    string   // user name of a client
	Organizations []string // groups of a client
	DNSNames      []string // duplicates and order do not matter
	IPs           []netip.Addr
	// Usages is normally one of x509.ExtKeyUsageServerAuth and
	// x509.ExtKeyUsageClientAuth.
	Usages []x509.ExtKeyUsage
}

// KeyPair is where a leaf certificate and its key are. Both are the same file,
// which tls.LoadX509KeyPair and all of Kubernetes accept; being one file, the
// two can never disagree.
type KeyPair struct {
	Cert string
	Key  string
}

// Issued tells what Ensure did.
type Issued struct {
	KeyPair
	// Reason says why the certificate was issued; empty: the one that was
	// there is good.
	Reason string
}

// Ensure makes sure that NAME.pem in the authority's directory holds a
// certificate for want that will do for at least a third of its life, and
// issues it, with a new key, when it does not.
func (ca *CA) Ensure(name string, want Leaf) (Issued, error) {
	path := filepath.Join(ca.dir, name+".pem")
	want = want.normal()
	result := Issued{KeyPair: KeyPair{Cert: path, Key: path}}
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		result.Reason = "it does not exist"
	case err != nil:
		return Issued{}, fmt.Errorf("read certificate: %w", err)
	default:
		result.Reason = needsReissue(data, want, ca, ca.now)
	}
	if result.Reason == "" {
		return result, nil
	}
	fresh, err := ca.issue(want, endToKeep(data, ca.now))
	if err != nil {
		return Issued{}, fmt.Errorf("issue certificate %s: %w", path, err)
	}
	if err := atomicfile.Write(path, fresh, 0o600); err != nil {
		return Issued{}, fmt.Errorf("store certificate: %w", err)
	}
	return result, nil
}

// issue signs a new certificate and returns the content of its file. It is
// valid for LeafLife, and at least until atLeast.
func (ca *CA) issue(want Leaf, atLeast time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("create key: %w", err)
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: want.CommonName, Organization: want.Organizations},
		DNSNames:    want.DNSNames,
		IPAddresses: netIPs(want.IPs),
		NotBefore:   ca.now.Add(-backdate).UTC(),
		NotAfter:    ca.leafEnd(atLeast).UTC(),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: want.Usages,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.signer, key.Public(), ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	chain := append([]*x509.Certificate{cert}, ca.intermediates()...)
	return append(encodeCerts(chain...), keyPEM...), nil
}

// leafEnd is when a certificate issued now ends: after LeafLife, not before
// atLeast, and never after the authority.
func (ca *CA) leafEnd(atLeast time.Time) time.Time {
	end := reference(ca.now).Add(LeafLife)
	if atLeast.After(end) {
		end = atLeast
	}
	if end.After(ca.signer.NotAfter) {
		end = ca.signer.NotAfter
	}
	return end
}

// endToKeep is the end of validity of the certificate in data when its
// beginning lies in the future, else zero. A successor keeps that end: the clock
// was set back, and when it is right again nothing must have become shorter.
func endToKeep(data []byte, now time.Time) time.Time {
	certs, err := decodeCerts(data)
	if err != nil || !now.Before(certs[0].NotBefore) {
		return time.Time{}
	}
	return certs[0].NotAfter
}

// normal returns the leaf in the form in which it is compared: sorted, without
// duplicates, addresses without zone and IPv4-in-IPv6 form.
func (l Leaf) normal() Leaf {
	l.Organizations = sortedSet(l.Organizations)
	l.DNSNames = sortedSet(l.DNSNames)
	ips := make([]netip.Addr, 0, len(l.IPs))
	for _, ip := range l.IPs {
		if ip.IsValid() {
			ips = append(ips, ip.Unmap().WithZone(""))
		}
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	l.IPs = slices.Compact(ips)
	l.Usages = slices.Clone(l.Usages)
	slices.Sort(l.Usages)
	l.Usages = slices.Compact(l.Usages)
	return l
}

func sortedSet(in []string) []string {
	out := slices.DeleteFunc(slices.Clone(in), func(s string) bool { return s == "" })
	slices.Sort(out)
	return slices.Compact(out)
}

func netIPs(in []netip.Addr) []net.IP {
	var out []net.IP
	for _, ip := range in {
		out = append(out, ip.AsSlice())
	}
	return out
}
