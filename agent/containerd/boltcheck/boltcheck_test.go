package boltcheck

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// sample is a database with branch pages, overflow pages, nested, inline and
// emptied buckets, and pages freed by deletion.
func sample(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sample.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true, NoSync: true, PageSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		err = db.Update(func(tx *bolt.Tx) error {
			top, err := tx.CreateBucketIfNotExists([]byte("v1"))
			if err != nil {
				return err
			}
			for i := range 30 {
				b, err := top.CreateBucketIfNotExists(fmt.Appendf(nil, "bucket-%d", i))
				if err != nil {
					return err
				}
				for j := range i * 10 {
					if err := b.Put(fmt.Appendf(nil, "key-%d-%d", j, round), bytes.Repeat([]byte{byte(j)}, j)); err != nil {
						return err
					}
				}
			}
			if round == 1 {
				if err := top.DeleteBucket([]byte("bucket-20")); err != nil {
					return err
				}
			}
			return top.Put([]byte("large"), bytes.Repeat([]byte("x"), 20000))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func check(data []byte) error { return Check(bytes.NewReader(data), int64(len(data))) }

func TestWhole(t *testing.T) {
	t.Parallel()
	if err := check(sample(t)); err != nil {
		t.Fatal(err)
	}
	if err := check(nil); err != nil {
		t.Fatalf("an empty file is a new database: %v", err)
	}
}

func TestBroken(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func([]byte) []byte{
		"cut in half":          func(b []byte) []byte { return b[:len(b)/2] },
		"cut inside a page":    func(b []byte) []byte { return b[:3*4096+7] },
		"both metas zero":      func(b []byte) []byte { clear(b[:2*4096]); return b },
		"everything zero":      func(b []byte) []byte { clear(b); return b },
		"data pages zero":      func(b []byte) []byte { clear(b[2*4096:]); return b },
		"not a database":       func([]byte) []byte { return bytes.Repeat([]byte("hello "), 5000) },
		"shorter than a page":  func(b []byte) []byte { return b[:100] },
		"pages in wrong place": func(b []byte) []byte { copy(b[4*4096:], b[9*4096:]); return b },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := check(damage(bytes.Clone(sample(t))))
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// One meta page may be broken: the writer was interrupted there, and the other
// one holds the transaction before.
func TestOneMetaIsEnough(t *testing.T) {
	t.Parallel()
	for page := range 2 {
		data := sample(t)
		clear(data[page*4096 : page*4096+200])
		err := check(data)
		// The older transaction's pages may have been reused, so both verdicts
		// can be right; what matters is that bbolt agrees with a positive one.
		if err == nil {
			openable(t, data)
		}
	}
}

func TestFileErrors(t *testing.T) {
	t.Parallel()
	if err := File(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

// openable fails unless bbolt opens data and can read and write it.
func openable(t testing.TB, data []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true, NoSync: true})
	if err != nil {
		t.Fatalf("judged whole, but bbolt says %v", err)
	}
	if err := db.Update(walk); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func walk(tx *bolt.Tx) error {
	var visit func(b *bolt.Bucket) error
	visit = func(b *bolt.Bucket) error {
		return b.ForEach(func(k, v []byte) error {
			if v == nil {
				return visit(b.Bucket(k))
			}
			return nil
		})
	}
	return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { return visit(b) })
}

// FuzzCheck overwrites a sample with some bytes: Check must not panic or hang,
// and what it calls whole bbolt must be able to open, or it would panic there.
func FuzzCheck(f *testing.F) {
	whole := sample(f)
	f.Add(uint32(0), []byte{1, 2, 3}, uint32(0))
	f.Add(uint32(2*4096+8), []byte{0, 0, 0, 0}, uint32(0))
	f.Add(uint32(5*4096+16), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint32(900))
	f.Fuzz(func(t *testing.T, offset uint32, patch []byte, cut uint32) {
		data := bytes.Clone(whole)
		data = data[:len(data)-int(cut)%len(data)]
		if int(offset) < len(data) {
			copy(data[offset:], patch)
		}
		if check(data) == nil && len(data) > 0 {
			openable(t, data)
		}
	})
}
