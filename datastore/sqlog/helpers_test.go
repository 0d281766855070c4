package sqlog

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func testOptions(t testing.TB) Options {
	t.Helper()
	return Options{Path: filepath.Join(t.TempDir(), "state.db")}
}

func mustOpen(t testing.TB, o Options) (*Log, State) {
	t.Helper()
	l, st, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	return l, st
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func mustCommit(t testing.TB, l *Log, recs ...Record) {
	t.Helper()
	if err := l.Commit(t.Context(), Batch{Records: recs}); err != nil {
		t.Fatal(err)
	}
}

// put is a first version of a key, at a revision of its own.
func put(rev int64, key string, size int) Record {
	return Record{ID: ID(rev, 0), Key: key, CreateRevision: rev, Version: 1, Value: fill10(rev, size), Size: size}
}

// fill10 makes a value that can be told from others and does not repeat.
func fill10(seed int64, size int) []byte {
	v := make([]byte, size)
	x := uint64(seed)*0x9e3779b97f4a7c15 + 1
	for i := range v {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		v[i] = byte(x)
	}
	return v
}

func loadAll(t testing.TB, l *Log, maxInline int) []Record {
	t.Helper()
	var recs []Record
	if err := l.Load(t.Context(), maxInline, func(r Record) error {
		recs = append(recs, r)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return recs
}

func assertRecords(t testing.TB, got, want []Record) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d records, want %d\ngot  %v\nwant %v", len(got), len(want), ids(got), ids(want))
	}
	for i := range got {
		if !equal(got[i], want[i]) {
			t.Errorf("record %d is %s, want %s", i, show(got[i]), show(want[i]))
		}
	}
}

func equal(a, b Record) bool {
	return a.ID == b.ID && a.Prev == b.Prev && a.Key == b.Key && a.CreateRevision == b.CreateRevision &&
		a.Version == b.Version && a.Lease == b.Lease && a.Size == b.Size && bytes.Equal(a.Value, b.Value)
}

func show(r Record) string {
	return fmt.Sprintf("{rev %d.%d prev %d.%d %q create %d version %d lease %d value %d of %d}", Revision(r.ID), r.ID&MaxSub,
		Revision(r.Prev), r.Prev&MaxSub, r.Key, r.CreateRevision, r.Version, r.Lease, len(r.Value), r.Size)
}

func ids(recs []Record) []string {
	var s []string
	for _, r := range recs {
		s = append(s, fmt.Sprintf("%d.%d", Revision(r.ID), r.ID&MaxSub))
	}
	return s
}

// copyCrashed copies the database as a machine that lost power would find it:
// without the lock and the shared memory, and not closed. The log must be idle.
func copyCrashed(t testing.TB, path string) string {
	t.Helper()
	dst := filepath.Join(t.TempDir(), "state.db")
	for _, suffix := range []string{"", "-wal"} {
		copyFile(t, dst+suffix, path+suffix)
	}
	return dst
}

// copyFile reads src while it may be open in SQLite. That drops SQLite's POSIX
// locks (see the package comment), which matter only between processes.
func copyFile(t testing.TB, dst, src string) {
	t.Helper()
	in, err := os.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// edit opens the database of a log that is not open, to prepare it.
func edit(t testing.TB, path string, stmts ...string) {
	t.Helper()
	c, err := openConn(t.Context(), path, connOptions{cacheKiB: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for _, s := range stmts {
		if err := c.exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func snapshotDir(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(data)
	}
	return files
}
