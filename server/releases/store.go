// Package releases gives agents the release that their server runs, so that a site
// needs it from outside only once.
//
// For the server's own architecture nothing has to be added: what install.sh and
// `limpet upgrade` leave of the release, its version and signed checksums, proves that
// the binary that runs is the release's. For others, `limpet release add` puts
// archives into the directory of the store. Agents verify either with the key that is
// stamped into themselves; the store only never gives out what they would refuse.
//
// What is given out is the smallest form of an air-gap archive: version, checksums,
// signature, binary. It is made on disk when it is asked for the first time, and not
// anew for each agent, so that a download over a bad line can go on where it broke.
package releases

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/limpetio/limpet/internal/release"
)

// Options of a Store; all are required.
type Options struct {
	// Dir is where archives are, in a directory for each version; it need not exist.
	Dir string
	// ProofDir has version, sha256sums and sha256sums.minisig of the running binary;
	// it need not exist.
	ProofDir string
	// Executable is the running binary.
	Executable string
	// Version and Arch of the running binary, and the key that signs releases.
	Version, Arch, PublicKey string
	Logger                   *slog.Logger
}

// Architectures are those of releases.
func Architectures() []string { return []string{"amd64", "arm64", "arm"} }

// Store gives out the release of the version that runs.
type Store struct {
	opts Options

	mu   sync.Mutex
	sum  *[sha256.Size]byte // of the running binary, once it is known
	good map[string]mark    // archives that were found to be right, by path
}

// mark tells whether a file is the one that was looked at.
type mark struct {
	size    int64
	modTime int64
}

// New returns a Store; nothing is looked at yet.
func New(o Options) *Store { return &Store{opts: o, good: map[string]mark{}} }

// Served returns the architectures for which the release can be given out.
func (s *Store) Served() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	served := map[string]bool{}
	for _, arch := range Architectures() {
		err := s.checkArchive(arch)
		if err != nil && arch == s.opts.Arch {
			_, err = s.proof()
		}
		if err == nil {
			served[arch] = true
		} else if !errors.Is(err, fs.ErrNotExist) {
			s.opts.Logger.Debug("the release is not given out", "arch", arch, "error", err)
		}
	}
	return served
}

func (s *Store) archive(arch string) string {
	return filepath.Join(s.opts.Dir, s.opts.Version, release.ArchiveFile(arch))
}

// checkArchive says whether there is an archive that agents will take. What follows
// its head was verified when it was put there, and is by every agent.
func (s *Store) checkArchive(arch string) error {
	file := s.archive(arch)
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	now := mark{info.Size(), info.ModTime().UnixNano()}
	if s.good[file] == now {
		return nil
	}
	head, err := readHead(file)
	if err != nil {
		return err
	}
	sums, err := head.verify(s.opts.PublicKey, s.opts.Version)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if _, listed := sums[release.BinaryFile(arch)]; !listed {
		return fmt.Errorf("%s: %s: %w", file, release.BinaryFile(arch), release.ErrNotListed)
	}
	s.good[file] = now
	return nil
}

// proof is the head of an archive of the running binary.
func (s *Store) proof() (head, error) {
	h := head{}
	for name := range h.fields() {
		data, err := readSmall(filepath.Join(s.opts.ProofDir, name))
		if err != nil {
			return head{}, err
		}
		*h.fields()[name] = data
	}
	sums, err := h.verify(s.opts.PublicKey, s.opts.Version)
	if err != nil {
		return head{}, fmt.Errorf("%s: %w", s.opts.ProofDir, err)
	}
	if s.sum == nil {
		if s.sum, err = sumOf(s.opts.Executable); err != nil {
			return head{}, err
		}
	}
	if sums[release.BinaryFile(s.opts.Arch)] != *s.sum {
		return head{}, fmt.Errorf("%s is of another binary than the one that runs", s.opts.ProofDir)
	}
	return h, nil
}

// Open opens the archive for an architecture, and makes it first where it can. The
// error is fs.ErrNotExist if there is none.
func (s *Store) Open(arch string) (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.checkArchive(arch)
	if err != nil && arch == s.opts.Arch {
		err = s.pack()
	}
	if err != nil {
		return nil, err
	}
	return os.Open(s.archive(arch))
}

// pack makes the archive of the running binary.
func (s *Store) pack() error {
	h, err := s.proof()
	if err != nil {
		return err
	}
	s.opts.Logger.Info("packing this server's release for agents", "version", s.opts.Version)
	if err := pack(s.archive(s.opts.Arch), h, s.opts.Arch, s.opts.Executable); err != nil {
		return fmt.Errorf("pack the release: %w", err)
	}
	return s.checkArchive(s.opts.Arch)
}

// Prune removes the archives of versions that do not precede the running one's
// successors: what is older than what runs is given out to nobody any more.
func (s *Store) Prune() error {
	entries, err := os.ReadDir(s.opts.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		order, err := release.CompareVersions(e.Name(), s.opts.Version)
		if err == nil && order < 0 {
			errs = append(errs, os.RemoveAll(filepath.Join(s.opts.Dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// Add verifies a release for an architecture and puts it into dir, the directory of a
// store. The source is a file or URL, as release.Fetch takes it.
func Add(ctx context.Context, source, dir, arch string, o release.Options) (version string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp(dir, ".add-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(work) }()
	o.Arch, o.KeepProof = arch, true
	got, err := release.Fetch(ctx, source, work, o)
	if err != nil {
		return "", err
	}
	h := head{}
	for name, field := range h.fields() {
		if *field, err = readSmall(filepath.Join(work, name)); err != nil {
			return "", err
		}
	}
	err = pack(filepath.Join(dir, got.Version, release.ArchiveFile(arch)), h, arch, got.Path)
	return got.Version, err
}

// ArchOf guesses the architecture from the name of a release's file; empty if the
// name does not tell.
func ArchOf(source string) string {
	name, _, _ := strings.Cut(filepath.Base(source), "?")
	for _, arch := range Architectures() {
		if name == release.BinaryFile(arch) || name == release.ArchiveFile(arch) {
			return arch
		}
	}
	return ""
}

func sumOf(file string) (*[sha256.Size]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return (*[sha256.Size]byte)(h.Sum(nil)), nil
}
