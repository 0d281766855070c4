package release

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/klauspost/compress/zstd"
)

// maxWindow is the largest zstd window accepted, in bytes; packages use 16 MiB.
const maxWindow = 32 << 20

// fromArchive takes the binary out of an air-gap archive while it comes: the
// archive itself is never stored.
func (f *fetcher) fromArchive(ctx context.Context, source, wantVersion string) (Fetched, error) {
	r, err := f.open(ctx, source, true)
	if err != nil {
		return Fetched{}, err
	}
	defer r.Close()
	zr, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return Fetched{}, fmt.Errorf("open the zstd stream: %w", err)
	}
	defer zr.Close()
	return f.fromTar(tar.NewReader(zr), wantVersion)
}

// fromTar reads the archive's files: sums, signature and version come before the
// binary, which is looked at only then.
func (f *fetcher) fromTar(tr *tar.Reader, wantVersion string) (Fetched, error) {
	var head archiveHead
	for {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return Fetched{}, fmt.Errorf("the archive has no %s: is it for another architecture?", BinaryFile(f.Arch))
		}
		if err != nil {
			return Fetched{}, fmt.Errorf("read the archive: %w", err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if name := path.Base(header.Name); name != BinaryFile(f.Arch) {
			if err := head.take(name, tr); err != nil {
				return Fetched{}, err
			}
			continue
		}
		sums, version, err := head.check(f.PublicKey, wantVersion)
		if err != nil {
			return Fetched{}, err
		}
		return f.place(sums, tr, version, proof(head))
	}
}

// archiveHead is what must come before the binary.
type archiveHead struct{ sums, signature, version []byte }

func (h *archiveHead) take(name string, r io.Reader) (err error) {
	switch name {
	case SumsFile:
		h.sums, err = readLimited(r, name, maxSums)
	case SignatureFile:
		h.signature, err = readLimited(r, name, maxSignature)
	case VersionFile:
		h.version, err = readLimited(r, name, maxVersion)
	}
	return err
}

func (h *archiveHead) check(key, wantVersion string) (Sums, string, error) {
	if h.sums == nil || h.signature == nil || h.version == nil {
		return nil, "", fmt.Errorf("the archive does not begin with %s, %s and %s: it is none of limpet's", SumsFile, SignatureFile, VersionFile)
	}
	sums, err := Verify(h.sums, h.signature, key)
	if err != nil {
		return nil, "", err
	}
	version, err := checkedVersion(sums, h.version, wantVersion)
	return sums, version, err
}
