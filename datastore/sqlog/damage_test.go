package sqlog

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// image is a database as files, to be damaged.
type image struct {
	db, wal []byte
	recs    []Record
}

func (img image) write(t testing.TB) Options {
	t.Helper()
	o := testOptions(t)
	o.Margin = 1000
	write(t, o.Path, string(img.db))
	if img.wal != nil {
		write(t, o.Path+"-wal", string(img.wal))
	}
	return o
}

func makeImage(t testing.TB, closed bool) image {
	t.Helper()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	var img image
	for i := range int64(40) {
		r := put(i+1, "/registry/pods/default/app", int(i*131)%2500)
		img.recs = append(img.recs, r)
		mustCommit(t, l, r)
	}
	if closed {
		mustClose(t, l)
	} else {
		o.Path = copyCrashed(t, o.Path)
		mustClose(t, l)
	}
	var err error
	if img.db, err = os.ReadFile(o.Path); err != nil {
		t.Fatal(err)
	}
	if !closed {
		if img.wal, err = os.ReadFile(o.Path + "-wal"); err != nil {
			t.Fatal(err)
		}
	}
	return img
}

// A damaged WAL costs what comes after the damage, but never the start: the
// tail may have been torn when the power went. Revisions still only grow.
func TestDamagedWAL(t *testing.T) {
	t.Parallel()
	img := makeImage(t, false)
	rng := rand.New(rand.NewPCG(1, 2))
	whole := img.wal
	for i := range 45 {
		at := rng.IntN(len(whole))
		img.wal = append([]byte(nil), whole...)
		switch i % 3 {
		case 0:
			img.wal[at] ^= 1 << rng.IntN(8)
		case 1:
			img.wal = img.wal[:at]
		case 2: // what a disk may show: the file is longer than what was written
			clear(img.wal[at:])
		}
		l, st, err := Open(t.Context(), img.write(t))
		if err != nil {
			t.Fatalf("damage of kind %d at %d of %d: %v", i%3, at, len(whole), err)
		}
		recs := loadAll(t, l, 1<<20)
		if len(recs) > len(img.recs) {
			t.Fatalf("%d records", len(recs))
		}
		assertRecords(t, recs, img.recs[:len(recs)])
		if last := Revision(img.recs[len(img.recs)-1].ID); st.Revision <= last || st.Compacted != st.Revision {
			t.Errorf("state %+v after revision %d", st, last)
		}
		mustClose(t, l)
	}
}

func TestDamagedDatabase(t *testing.T) {
	t.Parallel()
	img := makeImage(t, true)
	whole := img.db
	rng := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for i := range 120 {
		at := rng.IntN(len(whole))
		switch i % 3 {
		case 1: // headers of pages, where it hurts
			at = at/DefaultPageSize*DefaultPageSize + rng.IntN(16)
		case 2: // the first page
			at = rng.IntN(DefaultPageSize)
		}
		img.db = append([]byte(nil), whole...)
		img.db[at] ^= byte(1 << rng.IntN(8))
		if openDamaged(t, img.write(t)) != nil {
			refused++
		}
	}
	if refused < 16 {
		t.Errorf("only %d of 120 damages were noticed", refused)
	}
}

// openDamaged uses a database that may be damaged anyhow. Whatever happens has
// a name, and a refusal leaves the file alone.
func openDamaged(t testing.TB, o Options) error {
	t.Helper()
	before, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	l, _, err := Open(t.Context(), o)
	if err != nil {
		if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrSchema) && !errors.Is(err, ErrForeign) && !errors.Is(err, ErrReadOnly) {
			t.Errorf("Open returned %v", err)
		}
		if after, err := os.ReadFile(o.Path); err != nil || string(after) != string(before) {
			t.Errorf("the file was changed (%v)", err)
		}
		return err
	}
	defer func() { _ = l.Close(t.Context()) }()
	last := int64(0)
	err = l.Load(t.Context(), 1<<20, func(r Record) error {
		if r.ID <= last {
			t.Errorf("record %d after %d", r.ID, last)
		}
		last = r.ID
		return nil
	})
	if err != nil && !errors.Is(err, ErrCorrupt) {
		t.Errorf("Load returned %v", err)
	}
	if err != nil {
		if cerr := l.Close(t.Context()); cerr == nil {
			t.Errorf("marked clean although %v", err)
		}
	}
	return err
}

// A database that is found to be damaged while it runs is not written any more.
func TestDamageWhileRunning(t *testing.T) {
	t.Parallel()
	o := makeImage(t, true).write(t)
	l, _ := mustOpen(t, o)
	f, err := os.OpenFile(o.Path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for page := int64(4); page < fileSize(o.Path)/DefaultPageSize; page++ {
		if _, err := f.WriteAt(make([]byte, DefaultPageSize), page*DefaultPageSize); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(t.Context(), Batch{Compacted: 40}); err != nil {
		t.Fatal(err) // touches nothing that is damaged
	}
	if _, err := l.Sweep(t.Context(), 100); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Sweep: %v", err)
	}
	if err := l.Commit(t.Context(), Batch{Records: []Record{put(500, "/a", 1)}}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Commit: %v", err)
	}
	if err := l.Backup(t.Context(), o.Path+".copy"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Backup: %v", err)
	}
	if err := l.Close(t.Context()); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Close: %v", err)
	}
	if _, _, err := Open(t.Context(), o); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Open: %v", err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(o.Path), "state.db.copy")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the failed backup left a file: %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	clean, crashed := makeImage(f, true), makeImage(f, false)
	f.Add(uint32(100), byte(1), uint32(0), false)
	f.Add(uint32(2000), byte(0x80), uint32(100), true)
	f.Add(uint32(47), byte(0x0f), uint32(66), false) // a file format that SQLite does not know
	f.Fuzz(func(t *testing.T, at uint32, flip byte, cut uint32, wal bool) {
		img := clean
		if wal {
			img = crashed
		}
		img.db = append([]byte(nil), img.db...)
		img.db[int(at)%len(img.db)] ^= flip
		img.db = img.db[:len(img.db)-int(cut)%len(img.db)]
		_ = openDamaged(t, img.write(t))
	})
}
