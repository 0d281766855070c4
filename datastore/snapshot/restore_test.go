package snapshot

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/limpetio/limpet/datastore/sqlog"
)

func TestRestore(t *testing.T) {
	t.Parallel()
	dir, log := t.TempDir(), newLog(t, 50)
	info := mustSave(t, log, dir, SaveOptions{})
	want := log.keys(t)
	log.put(t, 50, 120) // is lost
	lost := log.rev
	log.close(t)

	r, err := Restore(t.Context(), info.Path, log.path, RestoreOptions{Now: at(7)})
	if err != nil {
		t.Fatal(err)
	}
	if r.Revision != lost+RevisionGap || r.Snapshot != info || r.Aside != log.path+".aside-20300102T030407Z" {
		t.Errorf("unexpected %+v", r)
	}
	restored := openLog(t, log.path)
	if got := restored.keys(t); !slices.Equal(got, want) {
		t.Errorf("%d keys, want %d", len(got), len(want))
	}
	if restored.rev <= r.Revision {
		t.Errorf("revision %d is not beyond %d", restored.rev, r.Revision)
	}
	restored.close(t)
	_, st, err := sqlog.Open(t.Context(), sqlog.Options{Path: log.path})
	if err != nil || st.Compacted < r.Revision {
		t.Errorf("compacted %d, %v", st.Compacted, err)
	}
	// What was there before can be used.
	if aside := openLog(t, r.Aside); aside.rev != lost {
		t.Errorf("kept aside: revision %d, want %d", aside.rev, lost)
	}
}

func TestRestoreWhileRunning(t *testing.T) {
	t.Parallel()
	dir, log := t.TempDir(), newLog(t, 5)
	info := mustSave(t, log, dir, SaveOptions{})
	before := filesOf(t, log.path)
	_, err := Restore(t.Context(), info.Path, log.path, RestoreOptions{})
	assertError(t, err, sqlog.ErrInUse, "stop it first", "pid")
	if after := filesOf(t, log.path); !maps.Equal(before, after) {
		t.Error("files have changed")
	}
}

func TestRestoreOnAnotherMachine(t *testing.T) {
	t.Parallel()
	info := mustSave(t, newLog(t, 5), t.TempDir(), SaveOptions{})
	db := filepath.Join(t.TempDir(), "db", "state.db")
	r, err := Restore(t.Context(), info.Path, db, RestoreOptions{})
	if err != nil || r.Aside != "" || r.Revision != 5+RevisionGap {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := openLog(t, db); len(got.keys(t)) != 5 {
		t.Error("keys are missing")
	}
}

// The WAL must go away with its database, or it would be replayed into the new.
func TestRestoreAfterACrash(t *testing.T) {
	t.Parallel()
	dir, log := t.TempDir(), newLog(t, 5)
	info := mustSave(t, log, dir, SaveOptions{})
	log.put(t, 5, 300)
	crashed := copyOf(t, log.path)
	if _, err := os.Stat(crashed + "-wal"); err != nil {
		t.Fatal(err)
	}
	r, err := Restore(t.Context(), info.Path, crashed, RestoreOptions{})
	if err != nil || r.Revision != 300+RevisionGap {
		t.Fatalf("%+v, %v", r, err)
	}
	if got := openLog(t, crashed); len(got.keys(t)) != 5 {
		t.Errorf("%d keys", len(got.keys(t)))
	}
	if aside := openLog(t, r.Aside); len(aside.keys(t)) != 300 {
		t.Errorf("%d keys aside", len(aside.keys(t)))
	}
}

// copyOf is what a power cut leaves of a running datastore.
func copyOf(t *testing.T, db string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range filesOf(t, db) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, filepath.Base(db))
}

func TestFailedRestoreChangesNothing(t *testing.T) {
	t.Parallel()
	dir, log := t.TempDir(), newLog(t, 200)
	info := mustSave(t, log, dir, SaveOptions{})
	log.close(t)
	before := filesOf(t, log.path)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Restore(cancelled, info.Path, log.path, RestoreOptions{})
	assertError(t, err, context.Canceled)
	damage(t, info.Path, func(b []byte) []byte { return b[:len(b)-1] })
	_, err = Restore(t.Context(), info.Path, log.path, RestoreOptions{})
	assertError(t, err, ErrDamaged, info.Path)
	_, err = Restore(t.Context(), filepath.Join(dir, "missing"), log.path, RestoreOptions{})
	assertError(t, err, os.ErrNotExist)
	if after := filesOf(t, log.path); !maps.Equal(before, after) {
		t.Errorf("files have changed: %v", slices.Sorted(maps.Keys(after)))
	}
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(log.path, link); err != nil {
		t.Fatal(err)
	}
	_, err = Restore(t.Context(), info.Path, link, RestoreOptions{})
	assertError(t, err, nil, "give the real path")
}

func TestKeepAside(t *testing.T) {
	t.Parallel()
	log := newLog(t, 5)
	info := mustSave(t, log, t.TempDir(), SaveOptions{})
	log.close(t)
	var asides, removed []string
	for i := range 4 {
		// Within one second, or with the clock set back.
		r, err := Restore(t.Context(), info.Path, log.path, RestoreOptions{KeepAside: 2, Now: at(30 - 10*(i/2))})
		if err != nil {
			t.Fatal(err)
		}
		asides = append(asides, r.Aside)
		removed = append(removed, r.Removed...)
	}
	left, err := filepath.Glob(log.path + ".aside-*")
	if err != nil || len(left) != 2 || !slices.Contains(left, asides[3]) {
		t.Errorf("left %q of %q, removed %q, %v", left, asides, removed, err)
	}
}

// The database in between cannot be read, so only the note of the first restore
// knows that its revisions were handed out.
func TestTwoRestoresNeverShareRevisions(t *testing.T) {
	t.Parallel()
	log := newLog(t, 5)
	info := mustSave(t, log, t.TempDir(), SaveOptions{})
	log.close(t)
	last := int64(0)
	for range 3 {
		damage(t, log.path, func(b []byte) []byte { clear(b); return b })
		if _, err := Restore(t.Context(), info.Path, log.path, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		l := openLog(t, log.path)
		if l.rev <= last {
			t.Fatalf("revision %d after %d", l.rev, last)
		}
		l.put(t, 5, 10)
		last = l.rev
		l.close(t)
	}
}

func TestRevisionsUsedUp(t *testing.T) {
	t.Parallel()
	log := newLog(t, 0)
	log.rev = sqlog.MaxRevision/2 - 1
	log.put(t, 0, 1)
	info := mustSave(t, log, t.TempDir(), SaveOptions{})
	log.close(t)
	_, err := Restore(t.Context(), info.Path, log.path, RestoreOptions{})
	assertError(t, err, nil, "used up")
}

// recoverable is a crashed, damaged database with snapshots of it, newest first.
func recoverable(t *testing.T, n int) (db, dir string, list []Info) {
	t.Helper()
	dir = t.TempDir()
	log := newLog(t, 100)
	for i := range n {
		log.put(t, 100+i, 101+i)
		mustSave(t, log, dir, SaveOptions{Now: at(50 - i), Reason: Scheduled}) // the clock runs backward
	}
	log.put(t, 500, 510)
	log.close(t)
	damage(t, log.path, func(b []byte) []byte { clear(b[4096 : len(b)-4096]); return b })
	if _, err := sqlog.Verify(t.Context(), log.path); !errors.Is(err, sqlog.ErrCorrupt) {
		t.Fatalf("the damaged database: %v", err)
	}
	list, err := List(dir)
	if err != nil || len(list) != n {
		t.Fatal(list, err)
	}
	return log.path, dir, list
}

func TestRecover(t *testing.T) {
	t.Parallel()
	db, dir, list := recoverable(t, 4)
	damage(t, list[0].Path, func(b []byte) []byte { b[len(b)-3]++; return b })
	damage(t, list[1].Path, func(b []byte) []byte { return b[:20] })
	broken := filesOf(t, db)["state.db"]

	r, err := Recover(t.Context(), db, dir, RestoreOptions{Node: "edge-1", Cause: sqlog.ErrCorrupt})
	if err != nil {
		t.Fatal(err)
	}
	if r.Snapshot.Name != list[2].Name || len(r.Tried) != 2 || r.Tried[0].Name != list[0].Name {
		t.Errorf("unexpected %+v", r)
	}
	for _, w := range []string{"the datastore was damaged (the database is damaged)", list[0].Name, list[1].Name, list[2].Name, "102 keys", r.Aside, "lost"} {
		if !strings.Contains(r.String(), w) {
			t.Errorf("%q does not mention %q", r, w)
		}
	}
	if got := openLog(t, db); len(got.keys(t)) != 102 || got.rev < 100+RevisionGap {
		t.Errorf("%d keys, revision %d", len(got.keys(t)), got.rev)
	}
	if data, err := os.ReadFile(r.Aside); err != nil || string(data) != broken {
		t.Errorf("the damaged file was not kept: %v", err)
	}
}

func TestHopelessRecoverChangesNothing(t *testing.T) {
	t.Parallel()
	db, dir, list := recoverable(t, 2)
	before := filesOf(t, db)
	_, err := Recover(t.Context(), db, t.TempDir(), RestoreOptions{})
	assertError(t, err, ErrNothingToRecover, "there is none in", "limpet snapshot restore", db)
	_, err = Recover(t.Context(), db, dir, RestoreOptions{Node: "edge-9"})
	assertError(t, err, ErrNothingToRecover, "2 of another node")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Recover(cancelled, db, dir, RestoreOptions{})
	assertError(t, err, context.Canceled)
	for _, i := range list {
		damage(t, i.Path, func(b []byte) []byte { return b[:len(b)-9] })
	}
	_, err = Recover(t.Context(), db, dir, RestoreOptions{})
	assertError(t, err, ErrNothingToRecover, list[0].Name, list[1].Name, "Nothing was changed")
	if after := filesOf(t, db); !maps.Equal(before, after) {
		t.Errorf("files have changed: %v", slices.Sorted(maps.Keys(after)))
	}
}

func TestCandidates(t *testing.T) {
	t.Parallel()
	mk := func(node string, db, rev int64, created int64) Info {
		return Info{Manifest: Manifest{Node: node, Database: db, Revision: rev, Created: time.Unix(created, 0)}}
	}
	old1, old2, new1, other := mk("a", 1, 900, 10), mk("a", 1, 800, 20), mk("a", 2, 5, 30), mk("b", 3, 7, 99)
	broken := mk("a", 0, 50, 15)
	broken.Damage = "yes"
	for _, tc := range []struct {
		id     int64
		node   string
		want   []Info
		others int
	}{
		{1, "a", []Info{old1, old2, broken}, 2},
		{2, "a", []Info{broken, new1}, 3},
		{0, "a", []Info{broken, new1}, 3}, // the one in use last, not the one with the highest revision
		{7, "a", []Info{broken}, 4},
		{0, "", []Info{broken, other}, 3},
	} {
		got, others := candidates([]Info{other, new1, broken, old2, old1}, tc.node, tc.id)
		if !slices.Equal(got, tc.want) || others != tc.others {
			t.Errorf("%d %q: %v and %d others", tc.id, tc.node, got, others)
		}
	}
}
