package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// DefaultBaseURL is where releases are published: BASE/VERSION/FILE, and
// BASE/CHANNEL/latest.
const DefaultBaseURL = "https://github.com/limpetio/limpet/releases/download"

// maxBinary bounds what is written for a binary, in bytes: five times ours.
const maxBinary = 1 << 30

// Options say what Fetch trusts and where it looks.
type Options struct {
	// PublicKey is the minisign key that signs releases; usually version.PublicKey.
	PublicKey string
	// Arch is amd64, arm64 or arm; usually runtime.GOARCH.
	Arch string
	// BaseURL is where versions are looked for; empty: DefaultBaseURL.
	BaseURL string
	// Client makes the requests; nil: one that uses the proxy variables and gives up a
	// server that does not begin to answer within 30 s.
	Client *http.Client
	// Progress is told how many bytes of the download have come, and of how many
	// (-1: unknown), every now and then; nil: nobody is.
	Progress func(done, total int64)
	// Logger hears of attempts that failed; nil: slog.Default.
	Logger *slog.Logger
	// KeepProof leaves the files version, sha256sums and sha256sums.minisig beside
	// the binary, for whoever hands it on.
	KeepProof bool
}

// Fetched is a verified binary on disk.
type Fetched struct {
	// Path is the binary, executable, in the directory that Fetch was given.
	Path string
	// Version is what the signed release says it is.
	Version string
}

// Fetch gets a verified binary for one architecture into dir (which exists) as
// dir/limpet, mode 0755, synced to disk. The source is
//
//   - a version (v1.2.3): the air-gap archive below BaseURL, which is a quarter of the
//     binary; or the binary itself, where there is no archive,
//   - an http or https URL, or a path, of an air-gap archive (its name ends in .tar.zst),
//     of a binary named limpet-ARCH with version, sha256sums and its signature beside
//     it, or of a directory with these (a URL that ends in /).
//
// Nothing of what comes is executed, and what does not verify is removed again:
// then dir is as before. A connection that breaks is taken up where it broke.
// When a version was asked for, the signed release must be of that version.
func Fetch(ctx context.Context, source, dir string, o Options) (Fetched, error) {
	if err := CheckKey(o.PublicKey); err != nil {
		return Fetched{}, err
	}
	f := &fetcher{Options: o, dir: dir, log: o.Logger}
	if f.log == nil {
		f.log = slog.Default()
	}
	if f.Client == nil {
		f.Client = newClient()
	}
	fetched, err := f.fetch(ctx, source)
	if err != nil {
		return Fetched{}, fmt.Errorf("get limpet from %s: %w", redactUserinfo(source), err)
	}
	return fetched, nil
}

type fetcher struct {
	Options
	dir string
	log *slog.Logger
}

func (f *fetcher) fetch(ctx context.Context, source string) (Fetched, error) {
	if CheckVersion(source) == nil {
		return f.byVersion(ctx, source)
	}
	if isURL(source) {
		return f.from(ctx, source, strings.HasSuffix(source, "/"))
	}
	info, err := os.Stat(source)
	if errors.Is(err, fs.ErrNotExist) {
		return Fetched{}, fmt.Errorf("%w; a version looks like v1.2.3, a URL begins with https://", err)
	}
	if err != nil {
		return Fetched{}, err
	}
	return f.from(ctx, source, info.IsDir())
}

func (f *fetcher) byVersion(ctx context.Context, version string) (Fetched, error) {
	base := f.BaseURL
	if base == "" {
		base = DefaultBaseURL
	}
	base = strings.TrimSuffix(base, "/") + "/" + version + "/"
	got, err := f.fromArchive(ctx, base+ArchiveFile(f.Arch), version)
	if missing(err) {
		got, err = f.fromFiles(ctx, base, version)
	}
	return got, err
}

func (f *fetcher) from(ctx context.Context, source string, isDir bool) (Fetched, error) {
	if isDir {
		return f.fromFiles(ctx, strings.TrimSuffix(source, "/")+"/", "")
	}
	if strings.HasSuffix(strings.SplitN(source, "?", 2)[0], ".tar.zst") {
		return f.fromArchive(ctx, source, "")
	}
	i := strings.LastIndexByte(source, '/')
	if name := source[i+1:]; name != BinaryFile(f.Arch) {
		return Fetched{}, fmt.Errorf("the file is named %q, but this machine needs %s (with %s, %s and %s beside it) or %s",
			name, BinaryFile(f.Arch), VersionFile, SumsFile, SignatureFile, ArchiveFile(f.Arch))
	}
	return f.fromFiles(ctx, source[:i+1], "")
}

// fromFiles takes single files of the release at base, which is empty or ends in a slash.
func (f *fetcher) fromFiles(ctx context.Context, base, wantVersion string) (Fetched, error) {
	small := func(name string, limit int64) ([]byte, error) {
		r, err := f.open(ctx, base+name, false)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return readLimited(r, name, limit)
	}
	data, err := small(SumsFile, maxSums)
	if err != nil {
		return Fetched{}, err
	}
	signature, err := small(SignatureFile, maxSignature)
	if err != nil {
		return Fetched{}, err
	}
	sums, err := Verify(data, signature, f.PublicKey)
	if err != nil {
		return Fetched{}, err
	}
	line, err := small(VersionFile, maxVersion)
	if err != nil {
		return Fetched{}, err
	}
	version, err := checkedVersion(sums, line, wantVersion)
	if err != nil {
		return Fetched{}, err
	}
	name := BinaryFile(f.Arch)
	if _, listed := sums[name]; !listed {
		return Fetched{}, fmt.Errorf("the release has no %s: %w", name, ErrNotListed)
	}
	r, err := f.open(ctx, base+name, true)
	if err != nil {
		return Fetched{}, err
	}
	defer r.Close()
	return f.place(sums, r, version, proof{data, signature, line})
}

// proof is what shows where a binary is from.
type proof struct{ sums, signature, version []byte }

func (p proof) files() map[string][]byte {
	return map[string][]byte{SumsFile: p.sums, SignatureFile: p.signature, VersionFile: p.version}
}

// keep writes the files; when it fails none is left.
func (p proof) keep(dir string) error {
	for name, data := range p.files() {
		if err := atomicfile.Write(filepath.Join(dir, name), data, 0o644); err != nil {
			p.remove(dir)
			return err
		}
	}
	return nil
}

func (p proof) remove(dir string) {
	for name := range p.files() {
		_ = os.Remove(filepath.Join(dir, name)) // what is left is only not needed
	}
}

// place writes the binary from r, compares it, and gives it its name last.
func (f *fetcher) place(sums Sums, r io.Reader, version string, p proof) (_ Fetched, err error) {
	tmp, err := os.CreateTemp(f.dir, ".limpet.part-*")
	if err != nil {
		return Fetched{}, err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	limited := &io.LimitedReader{R: r, N: maxBinary + 1}
	if err = sums.copy(BinaryFile(f.Arch), tmp, limited); err != nil {
		return Fetched{}, err
	}
	if err = errors.Join(tmp.Chmod(0o755), tmp.Sync(), tmp.Close()); err != nil {
		return Fetched{}, err
	}
	if f.KeepProof {
		if err = p.keep(f.dir); err != nil {
			return Fetched{}, err
		}
	}
	path := filepath.Join(f.dir, "limpet")
	if err = os.Rename(tmp.Name(), path); err != nil {
		if f.KeepProof {
			p.remove(f.dir)
		}
		return Fetched{}, err
	}
	return Fetched{Path: path, Version: version}, atomicfile.SyncDir(f.dir)
}

// checkedVersion compares the content of the version file with the sums, and
// with the version that was asked for, if one was.
func checkedVersion(sums Sums, line []byte, want string) (string, error) {
	if err := sums.Check(VersionFile, strings.NewReader(string(line))); err != nil {
		return "", err
	}
	version := strings.TrimSpace(string(line))
	if err := CheckVersion(version); err != nil {
		return "", err
	}
	if want != "" && version != want {
		return "", fmt.Errorf("the release there is %s, signed, but not the %s that was asked for", version, want)
	}
	return version, nil
}
