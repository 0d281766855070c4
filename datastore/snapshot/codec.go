package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
)

// One window and one block at a time: a few MiB of memory, whatever the size of
// the database. A larger window finds little more in pages of SQLite.
const (
	windowSize = 1 << 20
	bufferSize = 128 << 10
)

// digest returns size and sha256 of what r has.
func digest(ctx context.Context, r io.Reader) (size int64, sum string, err error) {
	h := sha256.New()
	size, err = copyTo(ctx, h, r)
	return size, hex.EncodeToString(h.Sum(nil)), err
}

// pack writes a snapshot of the database db to w.
func pack(ctx context.Context, w io.Writer, m Manifest, db io.Reader) error {
	frame, err := m.frame()
	if err != nil {
		return err
	}
	if _, err := w.Write(frame); err != nil {
		return err
	}
	enc, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(windowSize), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return err
	}
	if _, err := copyTo(ctx, enc, db); err != nil {
		_ = enc.Close()
		return err
	}
	return enc.Close()
}

// unpack reads a snapshot, writes its database to w, and fails unless that is
// what the manifest says.
func unpack(ctx context.Context, r io.Reader, w io.Writer) (Manifest, error) {
	m, err := readManifest(r)
	if err != nil {
		return m, err
	}
	dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(8<<20))
	if err != nil {
		return m, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer dec.Close()
	h := sha256.New()
	// One byte more than there should be: then it is too long, and the decoder
	// has seen the end, where its own checksum is.
	n, err := copyTo(ctx, io.MultiWriter(w, h), io.LimitReader(reading{dec}, m.Size+1))
	var broken readError
	switch {
	case errors.As(err, &broken) && !isSystemError(err):
		return m, fmt.Errorf("%w: it cannot be decompressed: %w", ErrDamaged, broken.error)
	case err != nil:
		return m, err
	case n > m.Size:
		return m, fmt.Errorf("%w: it holds more than the %d bytes that the manifest says", ErrDamaged, m.Size)
	case n < m.Size:
		return m, fmt.Errorf("%w: it holds %d bytes, the manifest says %d", ErrDamaged, n, m.Size)
	case hex.EncodeToString(h.Sum(nil)) != m.SHA256:
		return m, fmt.Errorf("%w: the content does not match its sha256", ErrDamaged)
	}
	return m, nil
}

// reading marks errors of a reader: a copy that fails must say which side did.
type reading struct{ io.Reader }

type readError struct{ error }

func (e readError) Unwrap() error { return e.error }

func (r reading) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = readError{err}
	}
	return n, err
}

func isSystemError(err error) bool {
	var perr *os.PathError
	return errors.As(err, &perr)
}

// copyTo copies until the end, or until ctx is done.
func copyTo(ctx context.Context, w io.Writer, r io.Reader) (int64, error) {
	return io.CopyBuffer(struct{ io.Writer }{w}, contextReader{ctx, r}, make([]byte, bufferSize))
}

type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}
