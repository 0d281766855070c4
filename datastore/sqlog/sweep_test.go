package sqlog

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

// model is what the log means: the history of each key.
type model struct {
	rev       int64
	compacted int64
	live      map[string]Record // newest record of each key, tombstones too
	all       map[int64]Record
}

func newModel() *model {
	return &model{live: map[string]Record{}, all: map[int64]Record{}}
}

// change makes the next batch: one revision that changes some of a few keys.
func (m *model) change(next func(n int) int) []Record {
	m.rev += int64(1 + next(3))
	var recs []Record
	for sub := range 1 + next(3) {
		key := string(rune('a' + next(6)))
		old, known := m.live[key]
		r := Record{ID: ID(m.rev, sub), Prev: old.ID, Key: key}
		switch {
		case known && !old.Tombstone() && next(3) == 0: // delete
			r.CreateRevision = old.CreateRevision
		case known && !old.Tombstone(): // update
			r.CreateRevision, r.Version = old.CreateRevision, old.Version+1
		default: // create
			r.CreateRevision, r.Version = m.rev, 1
			if known && next(2) == 0 {
				r.Prev = 0 // the caller may not know the tombstone any more
			}
		}
		if !r.Tombstone() {
			r.Value = fill10(r.ID, next(300))
			r.Size = len(r.Value)
		}
		m.live[key] = r
		m.all[r.ID] = r
		recs = append(recs, r)
	}
	return recs
}

// at is the store as of a revision.
func (m *model) at(rev int64, from map[int64]Record) map[string]int64 {
	state := map[string]int64{}
	for _, id := range slices.Sorted(maps.Keys(from)) {
		if Revision(id) > rev {
			break
		}
		if r := from[id]; r.Tombstone() {
			delete(state, r.Key)
		} else {
			state[r.Key] = id
		}
	}
	return state
}

// verify compares every revision that may still be asked for, and every event
// from the compact revision on.
func (m *model) verify(t testing.TB, recs []Record) {
	t.Helper()
	got := map[int64]Record{}
	for _, r := range recs {
		if want, ok := m.all[r.ID]; !ok || !equal(r, want) {
			t.Fatalf("record %s, want %s", show(r), show(want))
		}
		got[r.ID] = r
	}
	for rev := m.compacted; rev <= m.rev; rev++ {
		if g, w := m.at(rev, got), m.at(rev, m.all); !maps.Equal(g, w) {
			t.Fatalf("at revision %d (compacted %d): %v, want %v", rev, m.compacted, g, w)
		}
	}
	for id := range m.all {
		if _, ok := got[id]; !ok && Revision(id) >= m.compacted {
			t.Fatalf("record %d at revision %d is gone, compacted is %d", id, Revision(id), m.compacted)
		}
	}
}

// minimal is how many records are left when all is swept.
func (m *model) minimal() int {
	n := len(m.at(m.compacted-1, m.all))
	for id := range m.all {
		if Revision(id) >= m.compacted {
			n++
		}
	}
	return n
}

// runHistory plays a random history with compactions, slices of sweeping,
// crashes and restarts, and compares with the model after each.
func runHistory(t testing.TB, steps int, next func(n int) int) {
	o := testOptions(t)
	o.Margin = 50
	l, _ := mustOpen(t, o)
	m := newModel()
	for range steps {
		switch next(12) {
		case 0, 1:
			c := m.compacted + int64(next(int(m.rev-m.compacted)+1))
			if err := l.Commit(t.Context(), Batch{Compacted: c}); err != nil {
				t.Fatal(err)
			}
			m.compacted = c
		case 2, 3:
			if _, err := l.Sweep(t.Context(), 1+next(4)); err != nil {
				t.Fatal(err)
			}
		case 4: // the power is cut
			if next(2) == 0 {
				continue
			}
			o.Path = copyCrashed(t, o.Path)
			mustClose(t, l)
			var st State
			l, st = mustOpen(t, o)
			m.rev, m.compacted = st.Revision, st.Compacted
		case 5:
			mustClose(t, l)
			l, _ = mustOpen(t, o)
		default:
			mustCommit(t, l, m.change(next)...)
			continue
		}
		m.verify(t, loadAll(t, l, 1<<20))
	}
	for {
		more, err := l.Sweep(t.Context(), 3)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			break
		}
	}
	recs := loadAll(t, l, 1<<20)
	m.verify(t, recs)
	// A create that does not name the tombstone before it leaves that to the
	// tombstone's own turn, so nothing superfluous is left in any case.
	if len(recs) != m.minimal() || l.Stats().Rows != int64(len(recs)) {
		t.Errorf("%d records are left (Stats: %d), want %d", len(recs), l.Stats().Rows, m.minimal())
	}
	mustClose(t, l)
}

func TestSweepHistories(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			runHistory(t, 120, rand.New(rand.NewPCG(seed, 1)).IntN)
		})
	}
}

func FuzzSweep(f *testing.F) {
	f.Add([]byte{5, 1, 2, 9, 9, 0, 0, 3, 2, 2, 7, 1, 4, 4, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 400 {
			return
		}
		i := 0
		runHistory(t, len(data)/8+1, func(n int) int {
			if i++; i > len(data) || n <= 1 {
				return 0
			}
			return int(data[i-1]) % n
		})
	})
}

// A sweep that fails is not remembered, and may be repeated.
func TestSweepIsAtomic(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	b := Record{ID: ID(2, 0), Prev: ID(1, 0), Key: "/a", CreateRevision: 1, Version: 2}
	c := Record{ID: ID(3, 0), Prev: ID(2, 0), Key: "/a", CreateRevision: 1, Version: 3}
	d := put(4, "/b", 10)
	mustCommit(t, l, put(1, "/a", 10), b, c, d)
	if err := l.Commit(t.Context(), Batch{Compacted: 4}); err != nil {
		t.Fatal(err)
	}
	edit(t, o.Path, "CREATE TRIGGER fail BEFORE DELETE ON log WHEN old.id="+itoa(ID(2, 0))+" BEGIN SELECT RAISE(ABORT, 'injected'); END")
	if _, err := l.Sweep(t.Context(), 10); err == nil {
		t.Fatal("Sweep did not fail")
	}
	assertRecords(t, loadAll(t, l, 10), []Record{put(1, "/a", 10), b, c, d})
	if _, err := l.After(t.Context(), 0, 0, 0); err != nil {
		t.Errorf("nothing was swept: %v", err)
	}
	edit(t, o.Path, "DROP TRIGGER fail")
	if more, err := l.Sweep(t.Context(), 10); err != nil || more {
		t.Fatal(more, err)
	}
	assertRecords(t, loadAll(t, l, 10), []Record{c, d})
}

// A prev that is wrong must not cost another key its value.
func TestSweepChecksTheKey(t *testing.T) {
	t.Parallel()
	l, _ := mustOpen(t, testOptions(t))
	wrong := Record{ID: ID(2, 0), Prev: ID(1, 0), Key: "/b", CreateRevision: 2, Version: 1}
	last := put(3, "/c", 10)
	mustCommit(t, l, put(1, "/a", 10), wrong, last)
	if err := l.Commit(t.Context(), Batch{Compacted: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Sweep(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	assertRecords(t, loadAll(t, l, 10), []Record{put(1, "/a", 10), wrong, last})
}

// A watcher that lags behind a sweep must learn that it missed something.
func TestAfterSweep(t *testing.T) {
	t.Parallel()
	l, _ := mustOpen(t, testOptions(t))
	next := func(rev int64) Record {
		return Record{ID: ID(rev, 0), Prev: ID(rev-1, 0), Key: "/a", CreateRevision: 1, Version: rev}
	}
	mustCommit(t, l, put(1, "/a", 10), next(2), next(3), next(4))
	if err := l.Commit(t.Context(), Batch{Compacted: 3}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Sweep(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := l.After(t.Context(), ID(1, 0), 0, 0); !errors.Is(err, ErrCompacted) {
		t.Errorf("records before the sweep's end: %v", err)
	}
	// The compact revision is where others may begin.
	got, err := l.After(t.Context(), ID(3, 0)-1, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	assertRecords(t, got, []Record{next(3), next(4)})
	if before, ok, err := l.Record(t.Context(), next(3).Prev); !ok || err != nil || before.Version != 2 {
		t.Errorf("what the compact revision superseded: %+v, %v, %v", before, ok, err)
	}
}

// The file gets shorter when much was deleted: a little with each Sweep, and
// altogether by Defragment.
func TestSpaceIsGivenBack(t *testing.T) {
	t.Parallel()
	l, _ := mustOpen(t, testOptions(t))
	var recs []Record
	for i := range int64(400) {
		recs = append(recs, put(i+1, "/a", 10_000))
		recs[i].Prev = max(ID(i, 0), 0)
		recs[i].Version = i + 1
	}
	recs[0].Prev = 0
	mustCommit(t, l, recs...)
	if err := l.Commit(t.Context(), Batch{Compacted: 400}); err != nil {
		t.Fatal(err)
	}
	if err := l.Checkpoint(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	full := l.Stats()
	for {
		more, err := l.Sweep(t.Context(), 50)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			break
		}
	}
	if err := l.Checkpoint(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	swept := l.Stats()
	if swept.FileBytes > full.FileBytes*2/3 || swept.FreePages*swept.PageSize < reserveBytes*9/10 {
		t.Errorf("Sweep: before %+v, after %+v", full, swept)
	}
	if err := l.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := l.Stats()
	if s.FreePages != 0 || s.FileBytes > 50_000 || s.WALBytes != 0 || s.Rows != 2 {
		t.Errorf("Defragment: %+v", s)
	}
	assertRecords(t, loadAll(t, l, 1<<20), recs[398:])
}
