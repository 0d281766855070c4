package pki

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// renewalGain is how much longer a new certificate must live to be worth
// issuing: without it a leaf cut short by the end of its authority would be
// issued again at every start.
const renewalGain = 24 * time.Hour

// needsReissue judges the content of a leaf's file and returns why it must be
// issued again, or "" when it is good. want is in normal form.
func needsReissue(existing []byte, want Leaf, ca *CA, now time.Time) (reason string) {
	chain, err := decodeCerts(existing)
	if err != nil {
		return fmt.Sprintf("it cannot be read: %v", err)
	}
	key, err := decodeKey(existing)
	if err != nil {
		return fmt.Sprintf("its key cannot be read: %v", err)
	}
	cert := chain[0]
	switch {
	case !samePublicKey(cert, key):
		return "its key belongs to another certificate"
	case cert.CheckSignatureFrom(ca.signer) != nil:
		return "it was not signed by " + ca.signer.Subject.String()
	case !slices.EqualFunc(chain[1:], ca.intermediates(), (*x509.Certificate).Equal):
		return "the intermediate certificates changed"
	}
	if reason := subjectChanged(leafOf(cert), want); reason != "" {
		return reason
	}
	return validityNeeds(cert, ca, now)
}

// validityNeeds judges the time for which cert is valid.
func validityNeeds(cert *x509.Certificate, ca *CA, now time.Time) string {
	if now.Before(cert.NotBefore) {
		return "it is not valid before " + cert.NotBefore.Format(time.DateTime) + ": the clock was set back"
	}
	left := cert.NotAfter.Sub(now)
	if left >= renewBefore || ca.leafEnd(cert.NotAfter).Sub(cert.NotAfter) < renewalGain {
		return ""
	}
	if left <= 0 {
		return "it expired on " + cert.NotAfter.Format(time.DateOnly)
	}
	return fmt.Sprintf("it expires in %d days", int(left.Hours()/24))
}

// subjectChanged names the first difference between what a certificate is for
// and what is wanted.
func subjectChanged(have, want Leaf) string {
	switch {
	case have.CommonName != want.CommonName:
		return fmt.Sprintf("its name changed from %q to %q", have.CommonName, want.CommonName)
	case !slices.Equal(have.Organizations, want.Organizations):
		return "its groups changed: " + difference(have.Organizations, want.Organizations)
	case !slices.Equal(have.DNSNames, want.DNSNames):
		return "its DNS names changed: " + difference(have.DNSNames, want.DNSNames)
	case !slices.Equal(have.IPs, want.IPs):
		return "its addresses changed: " + difference(addrStrings(have.IPs), addrStrings(want.IPs))
	case !slices.Equal(have.Usages, want.Usages):
		return "its usage changed"
	}
	return ""
}

// leafOf reads back, in normal form, what a certificate is for.
func leafOf(cert *x509.Certificate) Leaf {
	l := Leaf{
		CommonName:    cert.Subject.CommonName,
		Organizations: cert.Subject.Organization,
		DNSNames:      cert.DNSNames,
		Usages:        cert.ExtKeyUsage,
	}
	for _, ip := range cert.IPAddresses {
		if addr, ok := netip.AddrFromSlice(ip); ok {
			l.IPs = append(l.IPs, addr)
		}
	}
	return l.normal()
}

// difference renders what came and what went as "+new -old".
func difference(have, want []string) string {
	var out []string
	for _, w := range want {
		if !slices.Contains(have, w) {
			out = append(out, "+"+w)
		}
	}
	for _, h := range have {
		if !slices.Contains(want, h) {
			out = append(out, "-"+h)
		}
	}
	return strings.Join(out, " ")
}

func addrStrings(in []netip.Addr) []string {
	out := make([]string, len(in))
	for i, ip := range in {
		out[i] = ip.String()
	}
	return out
}
