package payload

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// ErrDamaged is returned when the archive inside the limpet binary is not the one
// that was built: the binary was damaged on disk or in transfer.
var ErrDamaged = errors.New("the limpet binary is damaged: install it again")

// maxWindow is the largest zstd window accepted; the build uses less (zstd --long).
const maxWindow = 32 << 20

// archive is a packed payload: a tar in zstd whose first file is the manifest.
type archive struct {
	data        string
	sum         string // sha256 of data, names the directory on disk
	manifestSum string // sha256 of the manifest
}

// sink receives the files of an archive, in the order of its manifest.
type sink interface {
	// begin is called once, before the first file.
	begin(manifest, []byte) error
	// create returns where the content of a file goes; it is closed after the last byte.
	create(manifestFile) (io.WriteCloser, error)
}

// newArchive joins an archive and its checksums, two lines as sha256sum prints
// them: payload.tar.zst and MANIFEST.
func newArchive(data, sums string) (archive, error) {
	a := archive{data: data}
	for line := range strings.Lines(sums) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		switch {
		case !isSHA256(sum):
			return archive{}, fmt.Errorf("checksum line %q has no sha256", line)
		case name == "payload.tar.zst":
			a.sum = sum
		case name == manifestName:
			a.manifestSum = sum
		default:
			return archive{}, fmt.Errorf("checksum of unknown file %q", name)
		}
	}
	if a.sum == "" || a.manifestSum == "" {
		return archive{}, errors.New("checksums are incomplete")
	}
	return a, nil
}

// extract checks the archive and gives its files to the sink.
func (a archive) extract(ctx context.Context, to sink) error {
	hash := sha256.New()
	if _, err := io.Copy(hash, strings.NewReader(a.data)); err != nil {
		return fmt.Errorf("hash archive: %w", err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != a.sum {
		return fmt.Errorf("archive has sha256 %s instead of %s: %w", got, a.sum, ErrDamaged)
	}
	zr, err := zstd.NewReader(strings.NewReader(a.data), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return fmt.Errorf("open zstd stream: %w", err)
	}
	defer zr.Close()
	return readTar(ctx, zr, a.manifestSum, to)
}

// readTar reads a tar whose first file is a manifest with the given sha256, and
// gives the files that it lists to the sink, each checked by type, path, mode, size
// and sha256. What the manifest does not list is an error, and so is a missing file.
func readTar(ctx context.Context, r io.Reader, manifestSum string, to sink) error {
	tr := tar.NewReader(r)
	m, err := readManifest(tr, manifestSum, to)
	if err != nil {
		return err
	}
	for _, want := range m.files {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("archive ends before %s", want.path)
		}
		if err != nil {
			return fmt.Errorf("read archive before %s: %w", want.path, err)
		}
		if header.Typeflag != tar.TypeReg || header.Name != want.path || header.Size != want.size || header.FileInfo().Mode() != want.mode {
			return fmt.Errorf("archive has %q (type %q, mode %o, %d bytes) where the manifest lists %s (mode %o, %d bytes)",
				header.Name, header.Typeflag, header.Mode, header.Size, want.path, want.mode, want.size)
		}
		if err := copyFile(to, want, tr); err != nil {
			return err
		}
	}
	if header, err := tr.Next(); err == nil {
		return fmt.Errorf("archive has %q, which the manifest does not list", header.Name)
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("read end of archive: %w", err)
	}
	// The checksum of the zstd stream is checked at its very end.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("read end of archive: %w", err)
	}
	return nil
}

func readManifest(tr *tar.Reader, sum string, to sink) (manifest, error) {
	header, err := tr.Next()
	if err != nil {
		return manifest{}, fmt.Errorf("read first file of archive: %w", err)
	}
	if header.Typeflag != tar.TypeReg || header.Name != manifestName || header.Size > maxManifestBytes {
		return manifest{}, fmt.Errorf("archive begins with %q (%d bytes) instead of %s", header.Name, header.Size, manifestName)
	}
	data, err := io.ReadAll(tr)
	if err != nil {
		return manifest{}, fmt.Errorf("read %s: %w", manifestName, err)
	}
	m, err := checkedManifest(data, sum)
	if err != nil {
		return manifest{}, err
	}
	return m, to.begin(m, data)
}

// checkedManifest parses a manifest that must have the given sha256.
func checkedManifest(data []byte, sum string) (manifest, error) {
	if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != sum {
		return manifest{}, fmt.Errorf("%s has sha256 %x instead of %s", manifestName, got, sum)
	}
	return parseManifest(data)
}

func copyFile(to sink, want manifestFile, r io.Reader) error {
	w, err := to.create(want)
	if err != nil {
		return fmt.Errorf("create %s: %w", want.path, err)
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(w, hash), r)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", want.path, err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != want.sum {
		return fmt.Errorf("%s has sha256 %s instead of %s", want.path, got, want.sum)
	}
	return nil
}
