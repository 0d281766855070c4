package standin

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// selfSigned makes the server's certificate. It signs nothing but itself: who
// trusts it trusts this process and no authority. Its key is never on disk. It
// is valid at any time, since a machine without a server may have a wrong clock.
func selfSigned() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "limpet-stand-in"},
		NotBefore:    time.Unix(0, 0), NotAfter: time.Date(2199, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		DNSNames:              []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, certPEM, nil
}

// WriteTrust writes the bundle that the node's components verify the API server
// with: the cluster's authority and this server's certificate. It is to be
// called before they start, at each start, and changes every time.
func (s *Server) WriteTrust(path string, serverCA []byte) error {
	bundle := bytes.Join([][]byte{bytes.TrimSpace(serverCA), s.certPEM}, []byte("\n"))
	if err := atomicfile.Write(path, bundle, 0o600); err != nil {
		return fmt.Errorf("trust of the node's components: %w", err)
	}
	return nil
}

func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		Certificates: []tls.Certificate{s.pair},
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
		ClientAuth:   tls.RequireAnyClientCert,
		// Not the standard verification, which asks the clock: without a server
		// it may be wrong, and then the node's own certificates are not valid yet.
		VerifyConnection: s.verifyClient,
		// Every connection is verified in full.
		SessionTicketsDisabled: true,
	}
}

// verifyClient accepts the components of this node.
func (s *Server) verifyClient(state tls.ConnectionState) error {
	c, err := s.client(state)
	if err == nil && c.role == stranger {
		err = fmt.Errorf("%s is no component of node %s", c.user, s.opts.NodeName)
	}
	return err
}

// client verifies a certificate and tells whose it is.
func (s *Server) client(state tls.ConnectionState) (client, error) {
	if len(state.PeerCertificates) == 0 {
		return client{}, errors.New("no client certificate")
	}
	leaf, roots, between := state.PeerCertificates[0], x509.NewCertPool(), x509.NewCertPool()
	// The moment from which leaf and authority have both been valid.
	// Certificates are dated back a little, so a young authority may be later.
	at := leaf.NotBefore
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	for _, ca := range s.clientCA {
		roots.AddCert(ca)
		if bytes.Equal(ca.RawSubject, leaf.RawIssuer) && ca.NotBefore.After(at) {
			at = ca.NotBefore
		}
	}
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: at,
	})
	if err != nil {
		return client{}, fmt.Errorf("client certificate: %w", err)
	}
	return identify(s.opts.NodeName, leaf.Subject.CommonName, leaf.Subject.Organization), nil
}
