package sqlog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/testenv"
)

// With a full disk commits fail and leave nothing behind, reads go on, and
// commits succeed again when there is space.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	dir := testenv.SmallDisk(t, 4<<20)
	ballast := filepath.Join(dir, "ballast")
	write(t, ballast, strings.Repeat("x", 1<<20))
	write(t, ballast+"2", strings.Repeat("x", 800<<10))
	o := Options{Path: filepath.Join(dir, "state.db"), WALSoftLimit: 256 << 10, WALHardLimit: 512 << 10}
	l, _ := mustOpen(t, o)
	var stored []Record
	fill := func() {
		t.Helper()
		for {
			next := int64(len(stored)) + 1
			r := put(next, "/a", int(next%7)*10_000)
			err := l.Commit(t.Context(), Batch{Records: []Record{r}, Leases: []LeaseChange{{ID: r.ID, TTL: 1}}})
			if err != nil {
				if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "full") {
					t.Fatalf("Commit returned %v", err)
				}
				return
			}
			if stored = append(stored, r); len(stored) > 1000 {
				t.Fatal("the disk does not get full")
			}
		}
	}
	check := func() {
		t.Helper()
		assertRecords(t, loadAll(t, l, 1<<20), stored)
		if leases, err := l.Leases(t.Context()); err != nil || len(leases) != len(stored) {
			t.Errorf("%d leases, want %d (%v)", len(leases), len(stored), err)
		}
	}
	fill()
	check()
	fill()
	check()
	full := len(stored)
	if err := l.Backup(t.Context(), filepath.Join(dir, "copy")); !errors.Is(err, ErrNoSpace) {
		t.Errorf("Backup onto the full disk: %v", err)
	}
	if s := l.Stats(); !errors.Is(wrap("", o.Path, s.LastError), ErrNoSpace) {
		t.Errorf("Stats: %+v", s)
	}
	remove(t, ballast)
	fill()
	if len(stored) < full+10 {
		t.Errorf("%d records fitted into the new space", len(stored)-full)
	}
	check()
	remove(t, ballast+"2")
	mustClose(t, l)
	var st State
	if l, st = mustOpen(t, o); !st.Clean || st.Revision != int64(len(stored)) {
		t.Errorf("state %+v with %d records", st, len(stored))
	}
	check()
}

// A full disk at the start is an error, and does no harm.
func TestOpenOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := testenv.SmallDisk(t, 1<<20)
	o := Options{Path: filepath.Join(dir, "state.db")}
	ballast := filepath.Join(dir, "ballast")
	fillDisk := func() {
		t.Helper()
		f, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
	}
	fillDisk()
	if _, _, err := Open(t.Context(), o); !errors.Is(err, ErrNoSpace) {
		t.Errorf("new database: %v", err)
	}
	remove(t, ballast)
	l, _ := mustOpen(t, o)
	mustCommit(t, l, put(1, "/a", 100))
	mustClose(t, l)
	fillDisk()
	if _, _, err := Open(t.Context(), o); !errors.Is(err, ErrNoSpace) {
		t.Errorf("existing database: %v", err)
	}
	remove(t, ballast)
	l, st := mustOpen(t, o)
	if !st.Clean {
		t.Errorf("state %+v", st)
	}
	assertRecords(t, loadAll(t, l, 1000), []Record{put(1, "/a", 100)})
}

func TestReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	dir := testenv.SmallDisk(t, 1<<20)
	o := Options{Path: filepath.Join(dir, "state.db")}
	l, _ := mustOpen(t, o)
	mustCommit(t, l, put(1, "/a", 100))
	mustClose(t, l)
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(t.Context(), o); !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), o.Path) {
		t.Errorf("Open: %v", err)
	}
	if err := probe(dir); !errors.Is(classifyErrno(err), ErrReadOnly) {
		t.Errorf("probe: %v", err)
	}
}

// SQLITE_BUSY: somebody works on the database with the sqlite3 shell.
func TestBusy(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	mustCommit(t, l, put(1, "/a", 1))
	if err := l.w.exec(t.Context(), "PRAGMA busy_timeout=10"); err != nil {
		t.Fatal(err)
	}
	shell, err := openConn(t.Context(), o.Path, connOptions{cacheKiB: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer shell.close()
	if err := shell.exec(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(t.Context(), Batch{Records: []Record{put(2, "/a", 1)}}); !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "SQLITE_BUSY") {
		t.Errorf("Commit: %v", err)
	}
	if err := shell.exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, l, put(2, "/a", 1))
	assertRecords(t, loadAll(t, l, 10), []Record{put(1, "/a", 1), put(2, "/a", 1)})
	shell.close()
	mustClose(t, l)
	if _, st := mustOpen(t, o); !st.Clean {
		t.Errorf("state %+v", st)
	}
}

// A connection that cannot be trusted is replaced; and the log, which may not
// be what it was, is not marked clean.
func TestConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	mustCommit(t, l, put(1, "/a", 1))
	_ = l.w.Close() // so that COMMIT and ROLLBACK fail
	if err := l.Commit(t.Context(), Batch{Records: []Record{put(2, "/a", 1)}}); err == nil {
		t.Error("Commit on a closed connection succeeded")
	}
	mustCommit(t, l, put(2, "/b", 1))
	assertRecords(t, loadAll(t, l, 10), []Record{put(1, "/a", 1), put(2, "/b", 1)})
	if err := l.Close(t.Context()); err == nil {
		t.Error("Close does not tell that the log is not marked as clean")
	}
	if _, st := mustOpen(t, o); st.Clean {
		t.Errorf("state %+v", st)
	}
}

func TestCloseEndsBackup(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	recs := make([]Record, 3000)
	for i := range recs {
		recs[i] = put(int64(i)+1, "/a", 3000)
	}
	mustCommit(t, l, recs...)
	result := make(chan error)
	go func() { result <- l.Backup(context.Background(), o.Path+".copy") }()
	for l.longReads.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	mustClose(t, l)
	if err := <-result; err != nil && !errors.Is(err, errClosed) {
		t.Errorf("Backup: %v", err)
	}
}
