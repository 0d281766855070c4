package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// CA is one certificate authority, ready to sign. It is safe for concurrent
// use.
type CA struct {
	dir    string
	file   string // NAME-ca.crt
	now    time.Time
	bundle []*x509.Certificate // as in the file
	signer *x509.Certificate   // the one of bundle that key belongs to
	key    crypto.Signer
}

// File is the path of the authority's certificates: what peers must trust.
func (ca *CA) File() string { return ca.file }

// Bundle is the content of File in PEM.
func (ca *CA) Bundle() []byte { return encodeCerts(ca.bundle...) }

// KeyFile is the path of the key.
func (ca *CA) KeyFile() string { return strings.TrimSuffix(ca.file, ".crt") + ".key" }

// SignerFile is the path of a file with the signing certificate alone, which is
// what the controller-manager's certificate signer insists on. It is File,
// unless that holds a chain.
func (ca *CA) SignerFile() string {
	if len(ca.bundle) == 1 {
		return ca.file
	}
	return strings.TrimSuffix(ca.file, ".crt") + ".nochain.crt"
}

// Signer is the certificate whose key signs. Do not modify it.
func (ca *CA) Signer() *x509.Certificate { return ca.signer }

// intermediates are what a leaf must bring along so that a peer that trusts
// only the root can verify it: every certificate of the bundle that is no
// root, the signer first.
func (ca *CA) intermediates() []*x509.Certificate {
	var chain []*x509.Certificate
	if !isSelfSigned(ca.signer) {
		chain = append(chain, ca.signer)
	}
	for _, c := range ca.bundle {
		if !isSelfSigned(c) && !c.Equal(ca.signer) {
			chain = append(chain, c)
		}
	}
	return chain
}

func isSelfSigned(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

// openCA reads the authority name in dir, or creates it when nothing of it is
// there.
func openCA(dir, name string, opts Options) (*CA, error) {
	certFile, keyFile, pending := caFiles(dir, name)
	hasCert, hasKey, hasPending := exists(certFile), exists(keyFile), exists(pending)
	switch {
	case hasCert && hasKey:
		if hasPending {
			_ = os.Remove(pending) // left by a creation that was cut off after its last write
		}
	case hasPending:
		opts.Logger.Info("completing the creation of a certificate authority that was interrupted", "file", certFile)
		if err := installPending(pending, certFile, keyFile); err != nil {
			return nil, err
		}
	case hasCert:
		return nil, fmt.Errorf("%s is missing although %s exists: %s", keyFile, certFile, remedy)
	case hasKey:
		return nil, fmt.Errorf("%s is missing although %s exists: %s", certFile, keyFile, remedy)
	default:
		opts.Logger.Info("creating a certificate authority", "file", certFile)
		if err := createCA(name, certFile, keyFile, pending, opts.Now); err != nil {
			return nil, err
		}
	}
	return readCA(dir, certFile, keyFile, opts.Now)
}

// remedy ends every message about an authority that cannot be used.
const remedy = "restore both from a backup (limpet does not replace a certificate authority by itself, because every node and client of this cluster trusts it)"

// createCA makes a new key and a self-signed certificate. Both are stored in
// one pending file first: wherever the power is cut, the next start finds
// nothing, or a pending file to go on from, or a complete authority.
func createCA(name, certFile, keyFile, pending string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("create key of %s: %w", name, err)
	}
	template := &x509.Certificate{
		// The number sets authorities of different clusters apart, in
		// messages and for clients that know several of them.
		Subject:               pkix.Name{CommonName: "limpet-" + name + "@" + strconv.FormatInt(now.Unix(), 10)},
		NotBefore:             time.Unix(0, 0).UTC(), // see "Clocks" in the package comment
		NotAfter:              reference(now).Add(CALife).UTC(),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("create certificate of %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("create certificate of %s: %w", name, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	if err := atomicfile.Write(pending, append(encodeCerts(cert), keyPEM...), 0o600); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	return installPending(pending, certFile, keyFile)
}

// installPending distributes the pending file over its two files. Doing it
// twice does no harm.
func installPending(pending, certFile, keyFile string) error {
	data, err := os.ReadFile(pending)
	if err != nil {
		return fmt.Errorf("complete %s: %w", certFile, err)
	}
	certs, err := decodeCerts(data)
	if err != nil {
		return fmt.Errorf("complete %s from %s: %w; no authority was in use yet: remove %s to have a new one made", certFile, pending, err, pending)
	}
	key, err := decodeKey(data)
	if err != nil {
		return fmt.Errorf("complete %s from %s: %w; no authority was in use yet: remove %s to have a new one made", certFile, pending, err, pending)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return fmt.Errorf("complete %s: %w", keyFile, err)
	}
	if err := atomicfile.Write(keyFile, keyPEM, 0o600); err != nil {
		return err
	}
	if err := atomicfile.Write(certFile, encodeCerts(certs...), 0o644); err != nil {
		return err
	}
	if err := os.Remove(pending); err != nil {
		return fmt.Errorf("complete %s: %w", certFile, err)
	}
	return nil
}

// readCA loads an authority and checks that it can sign now.
func readCA(dir, certFile, keyFile string, now time.Time) (*CA, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read key of certificate authority: %w", err)
	}
	bundle, err := decodeCerts(certPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate authority %s cannot be used: %w: %s", certFile, err, remedy)
	}
	key, err := decodeKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("key of a certificate authority %s cannot be used: %w: %s", keyFile, err, remedy)
	}
	signer, err := findSigner(bundle, key)
	if err != nil {
		return nil, fmt.Errorf("certificate authority %s and its key %s cannot be used: %w: %s", certFile, keyFile, err, remedy)
	}
	if now.After(signer.NotAfter) {
		return nil, fmt.Errorf("certificate authority %s expired on %s, and the clock says %s: if the clock is wrong, set it; otherwise replace the authority",
			certFile, signer.NotAfter.Format(time.DateOnly), now.UTC().Format(time.DateTime))
	}
	ca := &CA{dir: dir, file: certFile, now: now, bundle: bundle, signer: signer, key: key}
	if ca.SignerFile() == certFile {
		return ca, nil
	}
	if _, err := atomicfile.WriteIfChanged(ca.SignerFile(), encodeCerts(signer), 0o644); err != nil {
		return nil, fmt.Errorf("store the signing certificate of %s by itself: %w", certFile, err)
	}
	return ca, nil
}

// findSigner returns the certificate of the bundle that belongs to key.
func findSigner(bundle []*x509.Certificate, key crypto.Signer) (*x509.Certificate, error) {
	for _, c := range bundle {
		if !samePublicKey(c, key) {
			continue
		}
		if !c.IsCA || (c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0) {
			return nil, fmt.Errorf("the certificate %q may not sign others", c.Subject)
		}
		// A flipped bit need not break the encoding, but would give the
		// cluster another identity.
		if isSelfSigned(c) && c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
			return nil, fmt.Errorf("the certificate %q is damaged: its signature does not fit its content", c.Subject)
		}
		return c, nil
	}
	return nil, errors.New("the key belongs to none of the certificates")
}

// exists reports whether something is at path; if that cannot be found out it
// says yes, and reading the file will tell why.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
