package sqlog

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"modernc.org/sqlite"
)

func history() []Record {
	return []Record{
		{ID: ID(2, 0), Key: "/a", CreateRevision: 2, Version: 1, Value: []byte("one"), Size: 3},
		{ID: ID(2, 1), Key: "\x00\xff", CreateRevision: 2, Version: 1, Lease: 7, Value: fill10(1, 5000), Size: 5000},
		{ID: ID(3, 0), Prev: ID(2, 0), Key: "/a", CreateRevision: 2, Version: 2},
		{ID: ID(4, 0), Prev: ID(2, 1), Key: "\x00\xff", CreateRevision: 2, Version: 0},
		{ID: ID(900, 5), Prev: ID(4, 0), Key: "\x00\xff", CreateRevision: 900, Version: 1, Lease: -1, Value: []byte{0}, Size: 1},
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, st := mustOpen(t, o)
	if want := (State{Clean: true, Schema: 1}); st != want {
		t.Errorf("new database: %+v, want %+v", st, want)
	}
	want := history()
	mustCommit(t, l, want[:2]...)
	if err := l.Commit(t.Context(), Batch{Records: want[2:], Leases: []LeaseChange{{ID: 7, TTL: 60}, {ID: 8, TTL: 5}, {ID: 7, TTL: 61}}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(t.Context(), Batch{Leases: []LeaseChange{{ID: 8, Revoked: true}, {ID: 99, Revoked: true}}}); err != nil {
		t.Fatal(err)
	}
	check := func(l *Log) {
		t.Helper()
		assertRecords(t, loadAll(t, l, 1<<20), want)
		leases, err := l.Leases(t.Context())
		if err != nil || !maps.Equal(leases, map[int64]int64{7: 61}) {
			t.Errorf("leases %v, %v", leases, err)
		}
	}
	check(l)
	mustClose(t, l)
	l, st = mustOpen(t, o)
	if want := (State{Clean: true, Schema: 1, Revision: 900}); st != want {
		t.Errorf("after Close: %+v, want %+v", st, want)
	}
	check(l)
}

func TestLookUp(t *testing.T) {
	t.Parallel()
	l, _ := mustOpen(t, testOptions(t))
	want := history()
	mustCommit(t, l, want...)
	for _, w := range want {
		got, ok, err := l.Record(t.Context(), w.ID)
		if err != nil || !ok || !equal(got, w) {
			t.Errorf("Record(%d): %s, %v, %v", w.ID, show(got), ok, err)
		}
	}
	if _, ok, err := l.Record(t.Context(), ID(5, 0)); ok || err != nil {
		t.Errorf("a record that is not there: %v, %v", ok, err)
	}
	got, err := l.Records(t.Context(), []int64{want[4].ID, 12345, want[0].ID, want[0].ID})
	if err != nil {
		t.Fatal(err)
	}
	assertRecords(t, got, []Record{want[4], {}, want[0], want[0]})
}

func TestAfter(t *testing.T) {
	t.Parallel()
	l, _ := mustOpen(t, testOptions(t))
	want := history()
	mustCommit(t, l, want...)
	for _, c := range []struct {
		name            string
		id              int64
		limit, maxBytes int
		want            []Record
	}{
		{"all", 0, 0, 0, want},
		{"limit", 0, 2, 0, want[:2]},
		{"within a revision", ID(2, 0), 1, 0, want[1:2]},
		{"bytes are reached", 0, 0, 1000, want[:2]},
		{"one at least", ID(2, 0), 0, 1, want[1:2]},
		{"the end", ID(900, 5), 0, 0, nil},
	} {
		got, err := l.After(t.Context(), c.id, c.limit, c.maxBytes)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		t.Log(c.name)
		assertRecords(t, got, c.want)
	}
}

// What Load leaves out must not be read from the disk either.
func TestLoadSkipsLargeValues(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	mustCommit(t, l, put(1, "/small", 100), put(2, "/large", 1<<20), put(3, "/limit", 200))
	mustClose(t, l)
	l, _ = mustOpen(t, o)
	missed := func() (n int) {
		if err := l.r.Raw(func(dc any) (err error) {
			n, _, err = dc.(sqlite.DBStatus).Status(sqlite.DBStatusCacheMiss, false)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := missed()
	recs := loadAll(t, l, 200)
	if n := missed() - before; n > 10 {
		t.Errorf("Load read %d pages", n)
	}
	if len(recs) != 3 || recs[1].Value != nil || recs[1].Size != 1<<20 || len(recs[2].Value) != 200 || len(recs[0].Value) != 100 {
		t.Errorf("loaded %s %s %s", show(recs[0]), show(recs[1]), show(recs[2]))
	}
	if got, ok, err := l.Record(t.Context(), ID(2, 0)); err != nil || !ok || !equal(got, put(2, "/large", 1<<20)) {
		t.Errorf("the large value: %s, %v, %v", show(got), ok, err)
	}
}

func TestLoadStops(t *testing.T) {
	t.Parallel()
	l, _ := mustOpen(t, testOptions(t))
	mustCommit(t, l, history()...)
	stop := errors.New("enough")
	if err := l.Load(t.Context(), 0, func(Record) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("Load returned %v, not the error of fn", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := l.Load(ctx, 0, func(Record) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Load of a canceled context returned %v", err)
	}
	assertRecords(t, loadAll(t, l, 1<<20), history()) // the connection is as good as before
}

func TestCommitRefusesMistakes(t *testing.T) {
	t.Parallel()
	l, _ := mustOpen(t, testOptions(t))
	mustCommit(t, l, put(10, "/a", 1))
	if err := l.Commit(t.Context(), Batch{Compacted: 5}); err != nil {
		t.Fatal(err)
	}
	rec := func(change func(*Record)) Batch {
		r := put(11, "/b", 1)
		change(&r)
		return Batch{Records: []Record{put(10, "/c", 1), r}[1:]}
	}
	for name, b := range map[string]Batch{
		"old id":             rec(func(r *Record) { r.ID = ID(10, 0) }),
		"not ascending":      {Records: []Record{put(12, "/b", 1), put(11, "/b", 1)}},
		"twice":              {Records: []Record{put(12, "/b", 1), put(12, "/b", 1)}},
		"prev is later":      rec(func(r *Record) { r.Prev = r.ID }),
		"no key":             rec(func(r *Record) { r.Key = "" }),
		"negative version":   rec(func(r *Record) { r.Version = -1 }),
		"tombstone's value":  rec(func(r *Record) { r.Version = 0 }),
		"compacted too far":  {Compacted: 11},
		"compacted backward": {Compacted: 4},
	} {
		if err := l.Commit(t.Context(), b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	mustCommit(t, l)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Commit(canceled, rec(func(*Record) {})); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	assertRecords(t, loadAll(t, l, 10), []Record{put(10, "/a", 1)})
	if n := l.Stats().Commits; n != 2 {
		t.Errorf("%d commits, want 2", n)
	}
}

// A batch that fails in the middle leaves nothing behind, and the log works on.
func TestCommitIsAtomic(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	mustCommit(t, l, put(1, "/a", 10))
	edit(t, o.Path, `CREATE TRIGGER fail BEFORE INSERT ON log WHEN new.key = CAST('/bad' AS BLOB) BEGIN SELECT RAISE(ABORT, 'injected'); END`)
	bad := Batch{Leases: []LeaseChange{{ID: 1, TTL: 1}}, Compacted: 1}
	for i := range 200 { // more than the page cache holds, so that pages are in the WAL already
		bad.Records = append(bad.Records, put(int64(2+i), "/x", 20_000))
	}
	bad.Records = append(bad.Records, put(500, "/bad", 1))
	err := l.Commit(t.Context(), bad)
	if err == nil || !strings.Contains(err.Error(), "injected") || !strings.Contains(err.Error(), o.Path) {
		t.Fatalf("Commit returned %v", err)
	}
	check := func(l *Log, want ...Record) {
		t.Helper()
		assertRecords(t, loadAll(t, l, 10), want)
		if leases, err := l.Leases(t.Context()); err != nil || len(leases) != 0 {
			t.Errorf("leases %v, %v", leases, err)
		}
	}
	check(l, put(1, "/a", 10))
	crashed := copyCrashed(t, o.Path)
	mustCommit(t, l, put(2, "/b", 10)) // the ids are free
	check(l, put(1, "/a", 10), put(2, "/b", 10))
	mustClose(t, l)
	l, st := mustOpen(t, o)
	if !st.Clean || st.Compacted != 0 {
		t.Errorf("state %+v", st)
	}
	check(l, put(1, "/a", 10), put(2, "/b", 10))
	l, _ = mustOpen(t, Options{Path: crashed})
	check(l, put(1, "/a", 10))
}

func TestUseAfterClose(t *testing.T) {
	t.Parallel()
	l, _ := mustOpen(t, testOptions(t))
	mustClose(t, l)
	mustClose(t, l)
	_, _, recordErr := l.Record(t.Context(), 1)
	_, sweepErr := l.Sweep(t.Context(), 1)
	for name, err := range map[string]error{
		"commit":     l.Commit(t.Context(), Batch{Records: []Record{put(1, "/a", 1)}}),
		"load":       l.Load(t.Context(), 1, func(Record) error { return nil }),
		"record":     recordErr,
		"sweep":      sweepErr,
		"checkpoint": l.Checkpoint(t.Context(), true),
		"backup":     l.Backup(t.Context(), l.opts.Path+".copy"),
		"defragment": l.Defragment(t.Context()),
	} {
		if !errors.Is(err, errClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	l.Stats()
}

func TestFileModes(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	mustClose(t, l)
	if err := os.Chmod(o.Path, 0o644); err != nil {
		t.Fatal(err)
	}
	l, _ = mustOpen(t, o)
	mustCommit(t, l, put(1, "/a", 1))
	names := []string{}
	for name := range snapshotDir(t, strings.TrimSuffix(o.Path, "/state.db")) {
		names = append(names, name)
		info, err := os.Stat(strings.TrimSuffix(o.Path, "state.db") + name)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s has mode %v (%v)", name, info.Mode(), err)
		}
	}
	slices.Sort(names)
	if want := []string{"state.db", "state.db-shm", "state.db-wal", "state.db.lock"}; !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
}
