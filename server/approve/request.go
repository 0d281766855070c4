package approve

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"net/netip"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

const (
	// maxRequest is far above what a request with a few names takes.
	maxRequest = 16 << 10
	// maxNames is how many names and addresses a serving certificate may have.
	maxNames = 64
	// Upstream's signer cuts longer times down to its own.
	maxExpiration = 366 * 24 * 60 * 60 // seconds
	minExpiration = 10 * 60

	maxShown = 200 // of what a requester wrote, in a message
)

// request is a parsed PKCS #10 request whose signature is that of its key.
type request struct {
	der []byte
	*x509.CertificateRequest
}

// parse reads spec.request and refuses what no node sends.
func parse(spec certificatesv1.CertificateSigningRequestSpec) (*request, *Decision) {
	if len(spec.Request) > maxRequest {
		return nil, refuse("The certificate request is of %d bytes; at most %d are read.", len(spec.Request), maxRequest)
	}
	block, rest := pem.Decode(spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, refuse("The certificate request is not one PEM block of type CERTIFICATE REQUEST.")
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, refuse("The certificate request cannot be read: %s.", clip(err.Error()))
	}
	if problem := weakKey(parsed.PublicKey); problem != "" {
		return nil, refuse("The key of the certificate request is %s; ECDSA (P-256, P-384, P-521), Ed25519 and RSA of 2048 to 8192 bits are accepted.", problem)
	}
	if err := parsed.CheckSignature(); err != nil {
		return nil, refuse("The certificate request is not signed by its own key: %s.", clip(err.Error()))
	}
	if s := spec.ExpirationSeconds; s != nil && (*s < minExpiration || *s > maxExpiration) {
		return nil, refuse("The request asks for a certificate of %d seconds; it may be of %d to %d.", *s, minExpiration, maxExpiration)
	}
	return &request{der: block.Bytes, CertificateRequest: parsed}, nil
}

// weakKey says what is wrong with a public key; "" if nothing is.
func weakKey(key any) string {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521() {
			return ""
		}
		return "ECDSA on " + k.Curve.Params().Name
	case ed25519.PublicKey:
		return ""
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 8192 {
			return "RSA of another size"
		}
		return ""
	}
	return "of an unknown kind"
}

func oidCommonName() asn1.ObjectIdentifier   { return asn1.ObjectIdentifier{2, 5, 4, 3} }
func oidOrganization() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 4, 10} }
func oidSubjectAltName() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{2, 5, 29, 17}
}

// subject returns the user and the group that the certificate would give. It is
// not ok if the subject has anything beside one of each.
func (p *request) subject() (user, group string, ok bool) {
	names := p.Subject.Names
	if len(names) != 2 || len(p.Subject.Organization) != 1 || p.Subject.CommonName == "" {
		return "", "", false
	}
	var cn, o int
	for _, n := range names {
		switch {
		case n.Type.Equal(oidCommonName()):
			cn++
		case n.Type.Equal(oidOrganization()):
			o++
		}
	}
	return p.Subject.CommonName, p.Subject.Organization[0], cn == 1 && o == 1
}

// nodeSubject returns the node whose kubelet the subject is.
func (p *request) nodeSubject() (string, *Decision) {
	user, group, ok := p.subject()
	name, isNode := strings.CutPrefix(user, nodeUserPrefix)
	if !ok || !isNode || group != nodesGroup {
		return "", refuse("The subject of a kubelet's certificate is CN=system:node:NAME,O=system:nodes and nothing else, not %s.", p.describeSubject())
	}
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return "", refuse("%q is not a valid node name: %s.", clip(name), problems[0])
	}
	return name, nil
}

func (p *request) describeSubject() string { return "\"" + clip(p.Subject.String()) + "\"" }

// noNames refuses names, addresses and any other extension: a client certificate has none.
func (p *request) noNames() *Decision {
	if len(p.Extensions) > 0 {
		return refuse("A client certificate has no alternative names and no extensions, but the request has.")
	}
	return nil
}

// serverNames returns the names and addresses to serve under.
func (p *request) serverNames() ([]string, []netip.Addr, *Decision) {
	for _, e := range p.Extensions {
		if !e.Id.Equal(oidSubjectAltName()) {
			return nil, nil, refuse("A kubelet's serving certificate has alternative names and no other extension, but the request has %s.", e.Id)
		}
	}
	if len(p.EmailAddresses) > 0 || len(p.URIs) > 0 {
		return nil, nil, refuse("A kubelet's serving certificate has DNS names and addresses, but no mail addresses and no URIs.")
	}
	if n := len(p.DNSNames) + len(p.IPAddresses); n == 0 || n > maxNames {
		return nil, nil, refuse("A kubelet's serving certificate has 1 to %d names and addresses; the request has %d.", maxNames, n)
	}
	addrs := make([]netip.Addr, 0, len(p.IPAddresses))
	for _, ip := range p.IPAddresses {
		addr, ok := netip.AddrFromSlice(ip)
		if !ok {
			return nil, nil, refuse("The request has an address that is none.")
		}
		addrs = append(addrs, addr.Unmap())
	}
	for _, name := range p.DNSNames {
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
			return nil, nil, refuse("%q is not a DNS name to serve under: %s.", clip(name), problems[0])
		}
	}
	return p.DNSNames, addrs, nil
}

// clip keeps what strangers wrote short and on one line.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return s
}
