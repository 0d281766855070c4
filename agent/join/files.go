package join

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/client-go/util/certificate"

	"github.com/limpetio/limpet/internal/atomicfile"
	joincfg "github.com/limpetio/limpet/internal/join"
)

// Files are what a joined node keeps, below Dir (<data>/agent).
type Files struct{ Dir string }

// TLS is the directory of certificates.
func (f Files) TLS() string { return filepath.Join(f.Dir, "tls") }

// Settings is the last settings of the cluster that were seen: a node starts
// with them while no server answers.
func (f Files) Settings() string { return filepath.Join(f.Dir, "join.json") }

// Servers is the load balancer's list of servers.
func (f Files) Servers() string { return filepath.Join(f.Dir, "servers.json") }

// Cache is the record of the node's pods, for starting them without a server.
func (f Files) Cache() string { return filepath.Join(f.Dir, "cache") }

// ServerCA is the bundle that servers are verified with.
func (f Files) ServerCA() string { return filepath.Join(f.TLS(), "server-ca.crt") }

// ClientCA is the bundle that clients of the kubelet are verified with.
func (f Files) ClientCA() string { return filepath.Join(f.TLS(), "client-ca.crt") }

// Client is the certificate of one of the node's identities with its key, in
// one file: kubelet-client-current.pem and so on.
func (f Files) Client(identity string) string {
	return filepath.Join(f.TLS(), identity+"-client-current.pem")
}

// Kubeconfig is the kubeconfig of one of the node's identities.
func (f Files) Kubeconfig(identity string) string {
	return filepath.Join(f.Dir, "cred", identity+".kubeconfig")
}

// Kubelet is the identity that joining obtains.
const Kubelet = "kubelet"

// SaveSettings writes the cluster's settings and the bundles that they hold,
// if they changed.
func (f Files) SaveSettings(c joincfg.Config) (changed bool, err error) {
	data, err := c.Marshal()
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(f.TLS(), 0o700); err != nil {
		return false, fmt.Errorf("create directory of certificates: %w", err)
	}
	for _, file := range []struct {
		path string
		data []byte
		mode fs.FileMode
	}{
		{f.ServerCA(), []byte(c.ServerCA), 0o644},
		{f.ClientCA(), []byte(c.ClientCA), 0o644},
		{f.Settings(), data, 0o600}, // last: with it the others are complete
	} {
		wrote, err := atomicfile.WriteIfChanged(file.path, file.data, file.mode)
		if err != nil {
			return changed, fmt.Errorf("keep the cluster's settings: %w", err)
		}
		changed = changed || wrote
	}
	return changed, nil
}

// KubeletPKI is where the kubelet keeps its serving certificate.
func (f Files) KubeletPKI() string { return filepath.Join(f.Dir, "kubelet", "pki") }

// forget removes what an earlier membership has left: certificates, and if it
// was of another cluster the list of servers and the record of pods.
func (f Files) forget(next joincfg.Config) error {
	gone := []string{f.TLS(), f.Settings(), f.KubeletPKI()}
	if old, err := os.ReadFile(f.ServerCA()); err == nil && string(old) != next.ServerCA {
		gone = append(gone, f.Servers(), f.Cache())
	}
	for _, path := range gone {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove what an earlier membership has left: %w", err)
		}
	}
	return nil
}

// ErrNotJoined is why stored files do not make a joined node.
var ErrNotJoined = errors.New("not joined")

// load reads what an earlier join has left. The error is an ErrNotJoined that
// says what is missing.
func (f Files) load(nodeName string, now time.Time) (joincfg.Config, error) {
	data, err := os.ReadFile(f.Settings())
	if err != nil {
		return joincfg.Config{}, fmt.Errorf("%w: %w", ErrNotJoined, err)
	}
	c, err := joincfg.Parse(data)
	if err != nil {
		return joincfg.Config{}, fmt.Errorf("%w: %s: %w", ErrNotJoined, f.Settings(), err)
	}
	cert, err := loadPair(f.Client(Kubelet))
	if err != nil {
		return joincfg.Config{}, fmt.Errorf("%w: %w", ErrNotJoined, err)
	}
	switch {
	case cert.Leaf.Subject.CommonName != userName(nodeName):
		return joincfg.Config{}, fmt.Errorf("%w: the certificate is of %s", ErrNotJoined, cert.Leaf.Subject.CommonName)
	case !issuedBy(cert.Leaf, c.ClientCA):
		return joincfg.Config{}, fmt.Errorf("%w: the certificate is of another authority", ErrNotJoined)
	case now.After(cert.Leaf.NotAfter):
		// One that is not valid yet is good: the clock is wrong and will be set.
		return joincfg.Config{}, fmt.Errorf("%w: the certificate has expired at %s", ErrNotJoined, cert.Leaf.NotAfter.Format(time.RFC3339))
	}
	return c, nil
}

// issuedBy reports whether a certificate of the bundle, or of the chain in
// use, signed the leaf. Expiry is looked at elsewhere.
func issuedBy(leaf *x509.Certificate, bundle string) bool {
	for _, ca := range parseBundle([]byte(bundle)) {
		if leaf.CheckSignatureFrom(ca) == nil {
			return true
		}
	}
	return false
}

// CertStore keeps one certificate and its key in one file, replaced as a
// whole: client-go's own store can be torn by a power cut, and would then keep
// the kubelet from starting.
type CertStore struct {
	Path string
	mu   sync.Mutex
}

var _ certificate.Store = (*CertStore)(nil)

// Current returns the pair. One that is missing or damaged is a
// *certificate.NoCertKeyError: another is to be asked for.
func (s *CertStore) Current() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cert, err := loadPair(s.Path)
	if err != nil {
		missing := certificate.NoCertKeyError(err.Error())
		return nil, &missing
	}
	return cert, nil
}

// Update replaces the pair; the file is 0600.
func (s *CertStore) Update(cert, key []byte) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("store certificate %s: %w", s.Path, err)
	}
	if err := os.MkdirAll(filepath.Dir(s.Path), 0o700); err != nil {
		return nil, fmt.Errorf("create directory of certificates: %w", err)
	}
	data := append(append([]byte{}, cert...), '\n')
	if err := atomicfile.Write(s.Path, append(data, key...), 0o600); err != nil {
		return nil, fmt.Errorf("store certificate: %w", err)
	}
	return &pair, nil
}

func loadPair(path string) (*tls.Certificate, error) {
	cert, err := tls.LoadX509KeyPair(path, path)
	if err != nil {
		return nil, fmt.Errorf("load certificate %s: %w", path, err)
	}
	if cert.Leaf == nil {
		return nil, fmt.Errorf("load certificate %s: no certificate", path)
	}
	return &cert, nil
}
