// Package journal keeps a map of keys to small values in one file, made for
// flash storage and power cuts: a change is appended, many changes share one
// write and one sync, what has not changed is not written, and a damaged place
// in the file costs the values that stood there and nothing else.
//
// A database would do the same with more bytes: one changed object of 1 KiB is
// 1 KiB here, 16 KiB or more in a B-tree of pages, and at least two blocks, an
// inode and two syncs as a file of its own.
package journal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/limpetio/limpet/internal/atomicfile"
)

const (
	fileName = "objects"
	// fileHeader names the format; a file that begins otherwise is replaced.
	fileHeader = "limpet objects 1\n"
	// compactAbove is the size in bytes below which dead space does not matter.
	compactAbove = 256 << 10
)

// Change is one key with its new value; a nil Value deletes the key.
type Change struct {
	Key   string
	Value []byte
}

// Journal is an open file. Its methods may be called concurrently.
type Journal struct {
	path string

	mu    sync.Mutex
	file  *os.File
	index map[string]entry
	size  int64 // of the file
	live  int64 // bytes of the frames in the index
	// damaged is how many damaged places the file has; the next write removes them.
	damaged int
	written int64
}

// entry is where the frame of a key is. Values stay on disk.
type entry struct {
	sum    [16]byte
	offset int64
	length int32 // of the whole frame
}

// Open reads the journal of a directory, which is created (0700) with its file
// (0600) if need be. Damage is no error, see [Journal.Damaged].
func Open(dir string) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create directory of journal: %w", err)
	}
	j := &Journal{path: filepath.Join(dir, fileName), index: map[string]entry{}}
	var err error
	j.file, err = os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := j.load(); err != nil {
		_ = j.file.Close()
		return nil, err
	}
	return j, nil
}

// load builds the index.
func (j *Journal) load() error {
	if err := j.file.Chmod(0o600); err != nil {
		return fmt.Errorf("protect journal: %w", err)
	}
	info, err := j.file.Stat()
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	j.size = info.Size()
	if j.size == 0 {
		return j.append([]byte(fileHeader))
	}
	header := make([]byte, len(fileHeader))
	if _, err := j.file.ReadAt(header, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read journal: %w", err)
	}
	if string(header) != fileHeader {
		j.damaged++ // nothing that can be relied on; the next write replaces the file
		return nil
	}
	s := scanner{file: j.file, size: j.size, offset: int64(len(fileHeader))}
	for s.next() {
		j.note(s.key, s.value, s.start, int32(s.offset-s.start))
	}
	j.damaged = s.damaged
	if s.err != nil {
		return fmt.Errorf("read journal: %w", s.err)
	}
	return nil
}

// note keeps the index right after a frame was read or written.
func (j *Journal) note(key string, value []byte, offset int64, length int32) {
	if old, ok := j.index[key]; ok {
		j.live -= int64(old.length)
		delete(j.index, key)
	}
	if value != nil {
		j.index[key] = entry{sum: sum(value), offset: offset, length: length}
		j.live += int64(length)
	}
}

func sum(value []byte) (short [16]byte) {
	full := sha256.Sum256(value)
	copy(short[:], full[:])
	return short
}

// Apply stores the changes that are changes, with one write and one sync. When
// it fails, none of them is stored as far as this process can tell, and the
// same changes may be applied again.
func (j *Journal) Apply(changes []Change) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	type place struct {
		change        Change
		offset, until int
	}
	var buf []byte
	var places []place
	for _, c := range changes {
		if !j.differs(c) {
			continue
		}
		if len(c.Key)+len(c.Value) > maxPayload-16 {
			return fmt.Errorf("%s has %d bytes: too large for the journal", c.Key, len(c.Value))
		}
		start := len(buf)
		buf = appendFrame(buf, c.Key, c.Value)
		places = append(places, place{c, start, len(buf)})
	}
	if len(buf) == 0 {
		return nil
	}
	if j.damaged > 0 {
		if err := j.compact(); err != nil {
			return err
		}
	}
	base := j.size
	if err := j.append(buf); err != nil {
		return err
	}
	for _, p := range places {
		j.note(p.change.Key, p.change.Value, base+int64(p.offset), int32(p.until-p.offset))
	}
	if j.size > compactAbove && j.live*2 < j.size {
		return j.compact()
	}
	return nil
}

func (j *Journal) differs(c Change) bool {
	old, ok := j.index[c.Key]
	if c.Value == nil {
		return ok
	}
	return !ok || old.sum != sum(c.Value)
}

// Same reports whether this value of the key is stored.
func (j *Journal) Same(key string, value []byte) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return !j.differs(Change{key, value})
}

// Has reports whether the key has a value.
func (j *Journal) Has(key string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	_, ok := j.index[key]
	return ok
}

// append writes at the end and syncs. What a failed write has left behind is cut off.
func (j *Journal) append(data []byte) error {
	n, err := j.file.Write(data)
	j.written += int64(n)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		if cut := j.file.Truncate(j.size); cut != nil {
			j.size += int64(n)
			j.damaged++ // half a frame stands there
		}
		return fmt.Errorf("write journal: %w", err)
	}
	j.size += int64(n)
	return nil
}

// compact writes the live frames to a new file, which takes the place of the
// old one in one step.
func (j *Journal) compact() (err error) {
	tmp, err := os.OpenFile(j.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
			err = fmt.Errorf("compact journal: %w", err)
		}
	}()
	next := &Journal{path: j.path, file: tmp, index: make(map[string]entry, len(j.index))}
	if err := next.copyFrom(j); err != nil {
		return err
	}
	j.written += next.written
	if err := os.Rename(tmp.Name(), j.path); err != nil {
		return err
	}
	_ = j.file.Close()
	j.file, j.index, j.size, j.live, j.damaged = next.file, next.index, next.size, next.live, 0
	return atomicfile.SyncDir(filepath.Dir(j.path))
}

// copyFrom writes the live frames of another journal, in pieces of about 1 MiB.
func (j *Journal) copyFrom(old *Journal) error {
	buf := []byte(fileHeader)
	for key, e := range old.index {
		frame, value, err := old.read(key, e)
		if err != nil {
			continue // damaged since it was read the last time
		}
		j.note(key, value, j.size+int64(len(buf)), e.length)
		buf = append(buf, frame...)
		if len(buf) > 1<<20 {
			if err := j.write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	if err := j.write(buf); err != nil {
		return err
	}
	return j.file.Sync()
}

func (j *Journal) write(data []byte) error {
	n, err := j.file.Write(data)
	j.size += int64(n)
	j.written += int64(n)
	return err
}

// read returns the frame and the value of a key; both are the caller's.
func (j *Journal) read(key string, e entry) (frame, value []byte, err error) {
	frame = make([]byte, e.length)
	if _, err := j.file.ReadAt(frame, e.offset); err != nil {
		return nil, nil, err
	}
	found, value, err := parsePayload(frame[:headerSize], frame[headerSize:])
	if err == nil && (found != key || value == nil) {
		err = errFrame
	}
	return frame, value, err
}

// Each calls f with every key and value, in no order, until f fails. Values that
// have become unreadable are left out; they are counted in the result.
func (j *Journal) Each(f func(key string, value []byte) error) (unreadable int, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for key, e := range j.index {
		_, value, err := j.read(key, e)
		if err != nil {
			unreadable++
			continue
		}
		if err := f(key, value); err != nil {
			return unreadable, err
		}
	}
	return unreadable, nil
}

// Keys returns the keys that begin with prefix.
func (j *Journal) Keys(prefix string) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var keys []string
	for key := range j.index {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys
}

// Stats describe the file.
type Stats struct {
	Keys int
	// Size is that of the file, Live what of it still matters, in bytes.
	Size, Live int64
	// Written counts the bytes handed to the file system since Open.
	Written int64
	// Damaged counts places that could not be read; the next write removes them.
	Damaged int
}

// Stats returns the state of the file.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Stats{Keys: len(j.index), Size: j.size, Live: j.live, Written: j.written, Damaged: j.damaged}
}

// Close releases the file; everything applied is on disk already.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}
