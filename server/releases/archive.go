package releases

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/release"
)

const (
	// maxSmall bounds what is read of the files before the binary, in bytes.
	maxSmall = 1 << 20
	// window is what packing and unpacking need in memory, in bytes.
	window = 8 << 20
)

// head is what comes before the binary in an archive.
type head struct{ version, sums, signature []byte }

func (h *head) fields() map[string]*[]byte {
	return map[string]*[]byte{release.VersionFile: &h.version, release.SumsFile: &h.sums, release.SignatureFile: &h.signature}
}

// verify checks signature and version as agents will.
func (h head) verify(key, version string) (release.Sums, error) {
	sums, err := release.Verify(h.sums, h.signature, key)
	if err != nil {
		return nil, err
	}
	if err := sums.Check(release.VersionFile, strings.NewReader(string(h.version))); err != nil {
		return nil, err
	}
	if got := strings.TrimSpace(string(h.version)); got != version {
		return nil, fmt.Errorf("it is the release of %s, and not of %s", got, version)
	}
	return sums, nil
}

// readHead reads an archive as far as to the binary.
func readHead(file string) (head, error) {
	f, err := os.Open(file)
	if err != nil {
		return head{}, err
	}
	defer f.Close()
	zr, err := zstd.NewReader(f, zstd.WithDecoderMaxWindow(window), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return head{}, fmt.Errorf("read %s: %w", file, err)
	}
	defer zr.Close()
	h := head{}
	for left, tr := h.fields(), tar.NewReader(zr); len(left) > 0; {
		entry, err := tr.Next()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return head{}, fmt.Errorf("read %s: %w", file, err)
		}
		name := path.Base(entry.Name)
		field := left[name]
		if field == nil {
			return head{}, fmt.Errorf("read %s: %s comes before version, checksums and signature", file, name)
		}
		if *field, err = readAtMost(tr, name); err != nil {
			return head{}, fmt.Errorf("read %s: %w", file, err)
		}
		delete(left, name)
	}
	return h, nil
}

func readSmall(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, file)
}

func readAtMost(r io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxSmall+1))
	if err == nil && len(data) > maxSmall {
		err = fmt.Errorf("%s is none of ours: it is longer than %d bytes", name, maxSmall)
	}
	return data, err
}

// pack writes an archive and gives it its name last.
func pack(dest string, h head, arch, binary string) (err error) {
	dir := filepath.Dir(dest)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".part-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	if err = write(tmp, h, arch, binary); err != nil {
		return err
	}
	if err = errors.Join(tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err = os.Rename(tmp.Name(), dest); err != nil {
		return err
	}
	return atomicfile.SyncDir(dir)
}

// write leaves cores to the cluster: one is enough, and the fastest level makes a
// third of the binary's size.
func write(w io.Writer, h head, arch, binary string) error {
	zw, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(window))
	if err != nil {
		return err
	}
	tw := tar.NewWriter(zw)
	add := func(name string, size, mode int64, r io.Reader) error {
		if err := tw.WriteHeader(&tar.Header{Name: "limpet/" + name, Mode: mode, Size: size, Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err := io.Copy(tw, r)
		return err
	}
	fields := h.fields()
	for _, name := range []string{release.VersionFile, release.SumsFile, release.SignatureFile} {
		data := *fields[name]
		if err := add(name, int64(len(data)), 0o644, strings.NewReader(string(data))); err != nil {
			return err
		}
	}
	f, err := os.Open(binary)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := add(release.BinaryFile(arch), info.Size(), 0o755, f); err != nil {
		return err
	}
	return errors.Join(tw.Close(), zw.Close())
}
