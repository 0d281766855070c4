// Package pki keeps the certificates of a cluster: three certificate
// authorities, the leaf certificates that they sign, the key that signs
// service account tokens, and kubeconfigs made from them.
//
// All of it lives in one directory (<data>/server/tls), mode 0700:
//
//	server-ca.crt          signs serving certificates (apiserver, kubelets)
//	client-ca.crt          signs client certificates
//	request-header-ca.crt  signs the certificate of the aggregation layer's front proxy
//	*-ca.key               their keys
//	*-ca.nochain.crt       the signing certificate alone, where the user's own authority has a chain
//	NAME.pem               a leaf: certificate, intermediates, private key
//	service-account.key    signs service account tokens
//
// A certificate authority is created once and then only read: clients all over
// the cluster trust it, so a damaged one is an error for a person to solve. A
// leaf can be made again at any time, so whatever is wrong with one is healed
// by issuing it again.
//
// # Clocks
//
// Boards without a clock battery start in 1970, or wherever they were switched
// off, and leap forward when the network comes. So authorities are valid from
// the Unix epoch on; a leaf that lies in the future is issued again with an
// earlier beginning and no earlier end; and no end of validity is ever computed
// from a clock that shows a time before this program was written.
package pki

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// CALife is how long a new certificate authority is valid.
	CALife = 10 * 365 * 24 * time.Hour
	// LeafLife is how long a leaf is valid from its issue on.
	LeafLife = 365 * 24 * time.Hour
	// renewBefore is what must be left of a leaf's life at start: a third.
	renewBefore = LeafLife / 3
	// backdate is how far before its issue a leaf becomes valid, for peers
	// whose clocks lag.
	backdate = time.Hour
)

// Options configure Open.
type Options struct {
	// Now is the time to judge and issue by; zero: the system's clock.
	Now time.Time
	// Logger tells of authorities that were created; nil: silent.
	Logger *slog.Logger
}

// Authority is the three certificate authorities of a cluster.
type Authority struct {
	Server        *CA
	Client        *CA
	RequestHeader *CA
}

// Open reads the authorities in dir and creates those that are not there; dir
// is created with mode 0700. Authorities that the user put there before the
// first start are used as they are: NAME-ca.crt may hold an intermediate and
// its root in any order, NAME-ca.key holds the key of the one that signs.
//
// An authority that is incomplete, unreadable, expired, or no authority at all
// is an error that names the file and the remedy; nothing is overwritten.
func Open(dir string, opts Options) (*Authority, error) {
	if opts.Now.IsZero() {
		opts.Now = time.Now()
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if err := makePrivateDir(dir); err != nil {
		return nil, err
	}
	names := [...]string{"server-ca", "client-ca", "request-header-ca"}
	var cas [len(names)]*CA
	var errs [len(names)]error
	var wg sync.WaitGroup
	for i, name := range names { // side by side: the time goes into fsync
		wg.Go(func() { cas[i], errs[i] = openCA(dir, name, opts) })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return &Authority{Server: cas[0], Client: cas[1], RequestHeader: cas[2]}, nil
}

// makePrivateDir creates dir and takes the rights of others away from a
// directory that is too open.
func makePrivateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create certificate directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("check certificate directory: %w", err)
	}
	if info.Mode().Perm() == 0o700 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("make certificate directory private: %w", err)
	}
	return nil
}

// reference is the time from which ends of validity are computed: now, unless
// the clock shows a time before this program was written.
func reference(now time.Time) time.Time {
	written := time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)
	if now.Before(written) {
		return written
	}
	return now
}

func caFiles(dir, name string) (cert, key, pending string) {
	base := filepath.Join(dir, name)
	return base + ".crt", base + ".key", filepath.Join(dir, "."+name+".pending")
}
