package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/limpetio/limpet/internal/release"
)

// ErrSignature says that a key was given and the bundle is not signed with it.
var ErrSignature = errors.New("the bundle is not signed with this key")

// Bundle is a bundle that can be read. Make one with Open.
type Bundle struct {
	Index Index
	// Digest of bundle.json, in hexadecimal digits, identifies the content.
	Digest string
	// Signed reports whether there is a signature; checked only with a key.
	Signed bool

	r     io.ReaderAt
	size  int64
	files map[string]place
}

// place of a file in the archive.
type place struct {
	offset int64
	File
}

// Open reads the table of contents of a bundle. With a publicKey, in minisign's
// format, it must be signed with that; "" does not look at signatures. What
// the files hold is checked by Verify. The caller keeps f open and closes it.
func Open(f *os.File, publicKey string) (*Bundle, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w: it is no regular file", f.Name(), ErrFormat)
	}
	b, err := read(f, info.Size(), publicKey)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return b, nil
}

func read(r io.ReaderAt, size int64, publicKey string) (*Bundle, error) {
	section := io.NewSectionReader(r, 0, size)
	s := &scanner{tar: tar.NewReader(section), at: section}
	b := &Bundle{r: r, size: size, files: map[string]place{}}
	index, err := b.head(s, publicKey)
	if err != nil {
		return nil, err
	}
	if b.Index, err = parseIndex(index); err != nil {
		return nil, err
	}
	for _, f := range b.Index.Files {
		header, err := s.next()
		if err != nil {
			return nil, err
		}
		if header == nil || header.Name != f.Path || header.Size != f.Size {
			return nil, formatError("%s should come with %d bytes, and does not", f.Path, f.Size)
		}
		offset := s.offset()
		if offset+f.Size > size {
			return nil, formatError("it is cut off in %s: copy it again", f.Path)
		}
		b.files[f.Path] = place{offset: offset, File: f}
	}
	if header, err := s.next(); err != nil || header != nil {
		return nil, errors.Join(err, formatError("it holds more than it lists"))
	}
	if s.offset() != size {
		return nil, formatError("it has something behind its end")
	}
	return b, nil
}

// head reads what comes before the listed files, and returns the index, whose
// checksum is right.
func (b *Bundle) head(s *scanner, publicKey string) ([]byte, error) {
	sums, err := s.small(release.SumsFile, 4<<10)
	if err != nil {
		return nil, err
	}
	header, err := s.next()
	if err != nil {
		return nil, err
	}
	var signature []byte
	if header != nil && header.Name == release.SignatureFile {
		b.Signed = true
		if signature, err = s.content(header, 4<<10); err != nil {
			return nil, err
		}
		if header, err = s.next(); err != nil {
			return nil, err
		}
	}
	if header == nil || header.Name != indexFile {
		return nil, formatError("%s does not come where it should", indexFile)
	}
	listed, err := b.sums(sums, signature, publicKey)
	if err != nil {
		return nil, err
	}
	index, err := s.content(header, maxIndex)
	if err != nil {
		return nil, err
	}
	if err := listed.Check(indexFile, bytes.NewReader(index)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	sum := sha256.Sum256(index)
	b.Digest = hex.EncodeToString(sum[:])
	return index, nil
}

func (b *Bundle) sums(sums, signature []byte, publicKey string) (release.Sums, error) {
	if publicKey == "" {
		listed, err := release.ParseSums(sums)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFormat, err)
		}
		return listed, nil
	}
	if err := release.CheckKey(publicKey); err != nil {
		return nil, err
	}
	if !b.Signed {
		return nil, fmt.Errorf("%w: it has no signature", ErrSignature)
	}
	listed, err := release.Verify(sums, signature, publicKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return listed, nil
}

// Verify reads all of the bundle and compares it with the checksums, and sees
// that every image is complete. Progress, if set, is told the bytes done.
func (b *Bundle) Verify(ctx context.Context, progress func(done, total int64)) error {
	total, done := b.Index.Size(), int64(0)
	buffer := make([]byte, 256<<10)
	for _, f := range b.Index.Files {
		hash := sha256.New()
		r := b.open(f.Path)
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := r.Read(buffer)
			hash.Write(buffer[:n])
			done += int64(n)
			if progress != nil {
				progress(done, total)
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("read %s: %w", f.Path, err)
			}
		}
		if got := hex.EncodeToString(hash.Sum(nil)); got != f.SHA256 {
			return formatError("%s has the checksum %s: it was damaged or changed", f.Path, got)
		}
	}
	for _, img := range b.Index.Images {
		if _, err := b.blobs(img); err != nil {
			return fmt.Errorf("image %s: %w", img.Name, err)
		}
	}
	return nil
}

// open a listed file.
func (b *Bundle) open(path string) *io.SectionReader {
	f := b.files[path]
	return io.NewSectionReader(b.r, f.offset, f.Size)
}

// blobs are all that an image needs: itself first, layers last.
func (b *Bundle) blobs(img Image) ([]ocispec.Descriptor, error) {
	platform, err := platforms.Parse(b.Index.Platform)
	if err != nil {
		return nil, err
	}
	matcher := platforms.Only(platform)
	var all []ocispec.Descriptor
	next := []ocispec.Descriptor{{MediaType: img.MediaType, Digest: digest.Digest(img.Digest), Size: img.Size}}
	for depth := 0; depth < 2; depth++ { // an index, a manifest
		desc := next[0]
		data, err := b.imageJSON(desc)
		if err != nil {
			return nil, err
		}
		all = append(all, desc)
		if next, err = children(desc, data, matcher); err != nil {
			return nil, err
		}
		if isManifest(desc.MediaType) {
			break
		}
	}
	for _, desc := range next {
		if err := b.has(desc); err != nil {
			return nil, err
		}
	}
	return append(all, next...), nil
}

func (b *Bundle) has(desc ocispec.Descriptor) error {
	path, err := blobPath(desc)
	if err != nil {
		return err
	}
	if f, ok := b.files[path]; !ok || f.Size != desc.Size {
		return formatError("%s with %d bytes is missing", desc.Digest, desc.Size)
	}
	return nil
}

func (b *Bundle) imageJSON(desc ocispec.Descriptor) ([]byte, error) {
	if err := b.has(desc); err != nil {
		return nil, err
	}
	if desc.Size > maxImageJSON {
		return nil, formatError("the image manifest %s has %d bytes; %d are allowed", desc.Digest, desc.Size, maxImageJSON)
	}
	path, err := blobPath(desc)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(b.open(path))
}

// scanner reads a tar archive in which only plain files are allowed.
type scanner struct {
	tar *tar.Reader
	at  io.Seeker
}

// next is the header of the next file; nil at the end.
func (s *scanner) next() (*tar.Header, error) {
	header, err := s.tar.Next()
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, formatError("%v", err)
	}
	// Other formats have long names, sparse files and more, none of which we write.
	if header.Typeflag != tar.TypeReg || header.Format != tar.FormatUSTAR {
		return nil, formatError("%q is not a plain file", header.Name)
	}
	return header, nil
}

// offset where the tar reader stands: it reads blocks and never ahead.
func (s *scanner) offset() int64 {
	offset, err := s.at.Seek(0, io.SeekCurrent)
	if err != nil {
		return -1
	}
	return offset
}

func (s *scanner) small(name string, limit int64) ([]byte, error) {
	header, err := s.next()
	if err != nil {
		return nil, err
	}
	if header == nil || header.Name != name {
		return nil, formatError("it does not begin with %s", name)
	}
	return s.content(header, limit)
}

func (s *scanner) content(header *tar.Header, limit int64) ([]byte, error) {
	if header.Size > limit {
		return nil, formatError("%s has %d bytes; %d are allowed", header.Name, header.Size, limit)
	}
	data, err := io.ReadAll(s.tar)
	if err != nil {
		return nil, formatError("%s: %v", header.Name, err)
	}
	return data, nil
}
