// Package boltcheck tells whether a bbolt database file is whole, without
// trusting it.
//
// bbolt itself maps the file and believes what it reads: after a power cut, a
// page that never reached the disk makes it panic, some of it in goroutines of
// its own where nobody can recover, and a file that became shorter kills the
// process by SIGBUS. For a process that starts on boot this is a boot loop. So
// the file is read here once, page by page, before bbolt gets it.
//
// The layout is that of bbolt 1.x, file format version 2
// (go.etcd.io/bbolt/internal/common: page.go, meta.go, bucket.go).
package boltcheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

const (
	magic         = 0xED0CDAED
	formatVersion = 2

	pageHeaderSize = 16
	elementSize    = 16 // of a branch and of a leaf element alike
	metaSize       = 64
	bucketSize     = 16

	branchPage = 0x01
	leafPage   = 0x02
	metaPage   = 0x04

	bucketElement = 0x01 // flag of a leaf element whose value is a bucket

	// maxDepth is far above what a tree of 2^64 pages could have.
	maxDepth    = 64
	minPageSize = 512
	maxPageSize = 1 << 20
)

// ErrCorrupt is wrapped by every finding.
var ErrCorrupt = errors.New("database is corrupt")

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
}

// File checks the database at path. It returns nil for a whole database, an
// error that wraps ErrCorrupt for a broken one, and other errors (among them
// fs.ErrNotExist) when the file cannot be read. An empty file counts as whole:
// bbolt makes a new database of it. The file must not be written meanwhile.
func File(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := Check(f, info.Size()); err != nil {
		return fmt.Errorf("check %s: %w", path, err)
	}
	return nil
}

// Check is File for size bytes of r. It reads every page that is in use once.
func Check(r io.ReaderAt, size int64) error {
	if size == 0 {
		return nil
	}
	m, err := readMeta(r, size)
	if err != nil {
		return err
	}
	c := &checker{r: r, meta: m, seen: make([]bool, m.pages)}
	c.seen[0], c.seen[1] = true, true // the two meta pages
	return c.tree(m.root, keyRange{}, 0)
}

// meta is what a meta page says about the newest complete transaction.
type meta struct {
	pageSize uint64
	root     uint64 // page of the root bucket
	pages    uint64 // first page number that is not in use
	txid     uint64
}

// readMeta returns the newer of the two valid meta pages, as bbolt chooses.
func readMeta(r io.ReaderAt, size int64) (meta, error) {
	var best meta
	var found bool
	// The second meta page lies where the page size of the first says, or,
	// if that one is broken, at one of the possible page sizes.
	first, err := metaAt(r, 0)
	if err == nil {
		best, found = first, true
		if second, err := metaAt(r, int64(first.pageSize)); err == nil && second.txid > first.txid {
			best = second
		}
	} else {
		for ps := int64(minPageSize * 2); ps <= 1<<16 && !found; ps *= 2 {
			if second, err := metaAt(r, ps); err == nil && second.pageSize == uint64(ps) {
				best, found = second, true
			}
		}
	}
	if !found {
		return meta{}, corrupt("no valid meta page: %v", err)
	}
	if best.pages > uint64(size)/best.pageSize {
		return meta{}, corrupt("%d pages of %d bytes in a file of %d bytes", best.pages, best.pageSize, size)
	}
	if best.pages < 3 {
		return meta{}, corrupt("only %d pages", best.pages)
	}
	return best, nil
}

func metaAt(r io.ReaderAt, offset int64) (meta, error) {
	var b [pageHeaderSize + metaSize]byte
	if _, err := r.ReadAt(b[:], offset); err != nil {
		return meta{}, fmt.Errorf("read meta page at %d: %w", offset, err)
	}
	if flags := binary.NativeEndian.Uint16(b[8:]); flags != metaPage {
		return meta{}, fmt.Errorf("page at %d has flags %#x", offset, flags)
	}
	d := b[pageHeaderSize:]
	sum := fnv.New64a()
	_, _ = sum.Write(d[:metaSize-8]) // a hash cannot fail
	switch {
	case binary.NativeEndian.Uint32(d) != magic:
		return meta{}, fmt.Errorf("page at %d: not bbolt's magic number", offset)
	case binary.NativeEndian.Uint32(d[4:]) != formatVersion:
		return meta{}, fmt.Errorf("page at %d: format version %d", offset, binary.NativeEndian.Uint32(d[4:]))
	case binary.NativeEndian.Uint64(d[metaSize-8:]) != sum.Sum64():
		return meta{}, fmt.Errorf("page at %d: wrong checksum", offset)
	}
	m := meta{
		pageSize: uint64(binary.NativeEndian.Uint32(d[8:])),
		root:     binary.NativeEndian.Uint64(d[16:]),
		pages:    binary.NativeEndian.Uint64(d[40:]),
		txid:     binary.NativeEndian.Uint64(d[48:]),
	}
	if m.pageSize < minPageSize || m.pageSize > maxPageSize {
		return meta{}, fmt.Errorf("page at %d: page size %d", offset, m.pageSize)
	}
	return m, nil
}

type checker struct {
	r    io.ReaderAt
	meta meta
	seen []bool // by page number: pages that something already refers to
}

// keyRange is what a branch page promises of the keys below one of its elements:
// at least min, less than max; nil is open.
type keyRange struct{ min, max []byte }

// next checks that key may follow within the range and makes it the new minimum.
// strict is true for all but the first key of a page, which may be min itself.
func (k *keyRange) next(id uint64, key []byte, strict bool) error {
	if order := bytes.Compare(key, k.min); order < 0 || order == 0 && strict {
		return corrupt("page %d: keys are not in order", id)
	}
	if k.max != nil && bytes.Compare(key, k.max) >= 0 {
		return corrupt("page %d: a key belongs to another page", id)
	}
	k.min = key
	return nil
}

// tree checks the page with this number and everything below it.
func (c *checker) tree(id uint64, keys keyRange, depth int) error {
	if depth > maxDepth {
		return corrupt("page %d is %d levels deep", id, depth)
	}
	page, err := c.page(id)
	if err != nil {
		return err
	}
	flags := binary.NativeEndian.Uint16(page[8:])
	switch flags {
	case branchPage:
		return c.branch(id, page, keys, depth)
	case leafPage:
		return c.leaf(id, page, keys, depth)
	default:
		return corrupt("page %d has flags %#x", id, flags)
	}
}

// page reads a page with its overflow pages and marks them as used.
func (c *checker) page(id uint64) ([]byte, error) {
	if id < 2 || id >= c.meta.pages {
		return nil, corrupt("page %d of %d does not exist", id, c.meta.pages)
	}
	var header [pageHeaderSize]byte
	if _, err := c.r.ReadAt(header[:], int64(id*c.meta.pageSize)); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	if n := binary.NativeEndian.Uint64(header[:]); n != id {
		return nil, corrupt("page %d says that it is page %d", id, n)
	}
	count := uint64(binary.NativeEndian.Uint32(header[12:])) + 1
	if count > c.meta.pages-id {
		return nil, corrupt("page %d has %d overflow pages, beyond the end", id, count-1)
	}
	for i := id; i < id+count; i++ {
		if c.seen[i] {
			return nil, corrupt("page %d is referred to twice", i)
		}
		c.seen[i] = true
	}
	page := make([]byte, count*c.meta.pageSize)
	if _, err := c.r.ReadAt(page, int64(id*c.meta.pageSize)); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	return page, nil
}

// elements returns the offsets of a page's elements.
func elements(id uint64, page []byte) ([]int, error) {
	count := int(binary.NativeEndian.Uint16(page[10:]))
	if pageHeaderSize+count*elementSize > len(page) {
		return nil, corrupt("page %d has %d elements", id, count)
	}
	offsets := make([]int, count)
	for i := range offsets {
		offsets[i] = pageHeaderSize + i*elementSize
	}
	return offsets, nil
}

// field returns length bytes at pos after the element at offset.
func field(id uint64, page []byte, offset int, pos, length uint64) ([]byte, error) {
	start := uint64(offset) + pos
	if start > uint64(len(page)) || length > uint64(len(page))-start {
		return nil, corrupt("page %d: %d bytes at %d are outside of it", id, length, start)
	}
	return page[start : start+length], nil
}

func (c *checker) branch(id uint64, page []byte, keys keyRange, depth int) error {
	offsets, err := elements(id, page)
	if err != nil {
		return err
	}
	if len(offsets) == 0 {
		return corrupt("branch page %d is empty", id)
	}
	ordered := keys
	children := make([][]byte, len(offsets))
	for i, off := range offsets {
		e := page[off:]
		key, err := field(id, page, off, uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:])))
		if err != nil {
			return err
		}
		if err := ordered.next(id, key, i > 0); err != nil {
			return err
		}
		children[i] = key
	}
	for i, off := range offsets {
		below := keyRange{min: children[i], max: keys.max}
		if i+1 < len(children) {
			below.max = children[i+1]
		}
		if err := c.tree(binary.NativeEndian.Uint64(page[off+8:]), below, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) leaf(id uint64, page []byte, keys keyRange, depth int) error {
	offsets, err := elements(id, page)
	if err != nil {
		return err
	}
	for i, off := range offsets {
		e := page[off:]
		pos, ksize := uint64(binary.NativeEndian.Uint32(e[4:])), uint64(binary.NativeEndian.Uint32(e[8:]))
		key, err := field(id, page, off, pos, ksize)
		if err != nil {
			return err
		}
		value, err := field(id, page, off, pos+ksize, uint64(binary.NativeEndian.Uint32(e[12:])))
		if err != nil {
			return err
		}
		if err := keys.next(id, key, i > 0); err != nil {
			return err
		}
		if binary.NativeEndian.Uint32(e)&bucketElement != 0 {
			if err := c.bucket(id, value, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucket checks a bucket, the value of an element of page id: its own pages, or
// the page that a small one carries inside the value.
func (c *checker) bucket(id uint64, value []byte, depth int) error {
	if depth > maxDepth {
		return corrupt("page %d: buckets are nested %d deep", id, depth)
	}
	if len(value) < bucketSize {
		return corrupt("page %d: a bucket of %d bytes", id, len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return c.tree(root, keyRange{}, depth)
	}
	inline := value[bucketSize:]
	if len(inline) < pageHeaderSize || binary.NativeEndian.Uint16(inline[8:]) != leafPage {
		return corrupt("page %d: an inline bucket without a leaf page", id)
	}
	return c.leaf(id, inline, keyRange{}, depth)
}
