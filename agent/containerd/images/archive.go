package images

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/distribution/reference"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// kind is what a file in the images directory is, going by its name.
type kind int

const (
	other kind = iota
	archiveFile
	listFile
)

// archiveSuffixes are the names that archives have; which compression they
// really use is seen from their first bytes.
var archiveSuffixes = []string{".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.zstd", ".tzst", ".tar.bz2", ".tbz"}

func kindOf(name string) kind {
	if strings.HasPrefix(name, ".") {
		return other
	}
	if strings.HasSuffix(name, ".txt") {
		return listFile
	}
	for _, s := range archiveSuffixes {
		if strings.HasSuffix(name, s) {
			return archiveFile
		}
	}
	return other
}

// decompress returns the tar stream of an archive. The caller closes it, which
// does not close r.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	magic, err := br.Peek(4)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read archive: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(br)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		// One goroutine, and a window that small machines can afford: zstd's
		// --ultra needs 128 MiB to decompress, --long=31 needs 2 GiB.
		d, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(br)), nil
	default:
		return io.NopCloser(br), nil
	}
}

// parseList reads a list of image references, one a line; # begins a comment.
// The references are returned in full ("busybox" is docker.io/library/busybox:latest).
func parseList(r io.Reader) ([]string, error) {
	var refs []string
	scanner := bufio.NewScanner(r)
	for line := 1; scanner.Scan(); line++ {
		text, _, _ := strings.Cut(scanner.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		ref, err := reference.ParseDockerRef(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %q is not an image reference: %w", line, text, err)
		}
		refs = append(refs, ref.String())
	}
	return refs, scanner.Err()
}

// fullName completes the reference name of an OCI layout, which tools fill in
// differently. A bare tag ("latest") names no image: "".
func fullName(name string) string {
	if !strings.ContainsAny(name, ":/") {
		return ""
	}
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return ""
	}
	return ref.String()
}
