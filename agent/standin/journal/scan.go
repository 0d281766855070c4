package journal

import (
	"bytes"
	"errors"
	"io"
)

// scanner walks over the whole frames of a file and skips what is damaged: a
// frame that a power cut has torn, blocks that the flash has lost.
type scanner struct {
	file   io.ReaderAt
	size   int64
	offset int64 // behind the last frame

	key     string
	value   []byte // valid until the next call
	start   int64  // of the last frame
	damaged int
	err     error // the file could not be read

	header  [headerSize]byte
	payload []byte
}

// next moves to the next whole frame; false at the end or on an error.
func (s *scanner) next() bool {
	for s.err == nil && s.offset < s.size {
		length, err := s.frame()
		if err == nil {
			s.start, s.offset = s.offset, s.offset+length
			return true
		}
		if !errors.Is(err, errFrame) {
			s.err = err
			return false
		}
		s.damaged++
		s.seek()
	}
	return false
}

// frame reads the frame at the offset and returns its length.
func (s *scanner) frame() (int64, error) {
	if err := s.readAt(s.header[:], s.offset); err != nil {
		return 0, err
	}
	n, err := payloadLength(s.header[:])
	if err != nil {
		return 0, err
	}
	if s.offset+headerSize+int64(n) > s.size {
		return 0, errFrame // torn, or a length that never was one
	}
	if cap(s.payload) < n {
		s.payload = make([]byte, n)
	}
	s.payload = s.payload[:n]
	if err := s.readAt(s.payload, s.offset+headerSize); err != nil {
		return 0, err
	}
	s.key, s.value, err = parsePayload(s.header[:], s.payload)
	return headerSize + int64(n), err
}

// readAt fills p; a file that ends before is a damaged frame.
func (s *scanner) readAt(p []byte, offset int64) error {
	n, err := s.file.ReadAt(p, offset)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return errFrame
	}
	return err
}

// seek moves the offset to the next place that looks like a frame.
func (s *scanner) seek() {
	const step = 64 << 10
	buf := make([]byte, step)
	for from := s.offset + 1; from < s.size; from += step - int64(len(magic())) + 1 {
		n, err := s.file.ReadAt(buf, from)
		if i := bytes.Index(buf[:n], magic()); i >= 0 {
			s.offset = from + int64(i)
			return
		}
		if err != nil && !errors.Is(err, io.EOF) {
			s.err = err
			return
		}
		if n < step {
			break
		}
	}
	s.offset = s.size
}
