package datastore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/limpetio/limpet/datastore/engine"
	"github.com/limpetio/limpet/datastore/sqlog"
)

// putMany puts n keys in few revisions.
func putMany(t testing.TB, s *Store, prefix string, n int) (revision int64) {
	t.Helper()
	for i := 0; i < n; {
		r := &pb.TxnRequest{}
		for ; i < n && len(r.Success) < engine.MaxTxnOps; i++ {
			r.Success = append(r.Success, putOp(fmt.Sprintf("%s%06d", prefix, i), []byte("v"), 0))
		}
		resp, err := s.Txn(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		revision = resp.Header.Revision
	}
	return revision
}

// A watcher that takes nothing for a while misses nothing, wherever what it
// missed is by then, and however much of it is in one revision.
func TestWatcherThatIsSlow(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]func(*Options){
		"history in memory":  func(*Options) {},
		"history in the log": smallHistory,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, option)
			all, some := follow(s, everything(), 0), follow(s, engine.Interval{Key: "b/", End: "b0"}, 0)
			defer all.Close()
			defer some.Close()
			const n = maxQueued + 2*catchUpChanges
			putMany(t, s, "a/", n)
			putMany(t, s, "b/", 300)
			if _, ok := s.Synced([]*Watcher{all.Watcher, some.Watcher}); ok {
				t.Error("watchers that have taken nothing are in sync")
			}
			for _, key := range []string{"a/", "b/"} {
				if _, err := s.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte{key[0], '0'}}); err != nil {
					t.Fatal(err)
				}
			}
			end := put(t, s, "b/end", "")
			ctx := within(t, 30*time.Second)
			for f, want := range map[*follower]int{all: 2*(n+300) + 1, some: 601} {
				got, err := f.until(ctx, at(end))
				if err != nil || len(got) != want {
					t.Fatalf("watcher of %q: %d changes, want %d; %v", f.in, len(got), want, err)
				}
				if err := sameAsLog(ctx, f, got); err != nil {
					t.Error(err)
				}
			}
			if revision, ok := s.Synced([]*Watcher{all.Watcher, some.Watcher}); !ok || revision != end {
				t.Errorf("in sync: %v, at %d; want %d", ok, revision, end)
			}
		})
	}
}

// What is in the log and not yet published does not exist for watchers either:
// they would be ahead of readers, and would hear of it again.
func TestWatcherIsNotAheadOfReaders(t *testing.T) {
	t.Parallel()
	s := open(t, smallHistory)
	ctx := within(t, 30*time.Second)
	for i := range 50 {
		put(t, s, "a", fmt.Sprint(i))
	}
	before := s.State()
	f := follow(s, everything(), 2)
	defer f.Close()

	// The two halves of a commit, as the writer does them.
	pending := before.Begin(reader{ctx: ctx, Store: s})
	for _, value := range []string{"new", "newer"} {
		if _, err := pending.Put(putReq("a", value)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.log.Commit(ctx, sqlog.Batch{Records: recordsOf(pending.Changes())}); err != nil {
		t.Fatal(err)
	}
	got, err := f.until(ctx, at(before.Revision))
	if err != nil || len(got) != 50 {
		t.Errorf("before: %d changes, %v", len(got), err)
	}
	s.hub.publish(pending.State(), pending.Changes())
	more, err := f.until(ctx, at(before.Revision+2))
	if err != nil || len(more) != 2 {
		t.Errorf("after: %d changes, %v", len(more), err)
	}
}

// Reading and watching are possible from the compacted revision on, also when
// everything that can go has gone.
func TestWatchFromTheCompactedRevision(t *testing.T) {
	t.Parallel()
	s := open(t, smallHistory)
	ctx := within(t, 30*time.Second)
	for i := range 20 {
		put(t, s, "a", fmt.Sprint(i))
	}
	put(t, s, "b", "")
	compacted := remove(t, s, "b")
	if _, err := s.Compact(ctx, compacted); err != nil {
		t.Fatal(err)
	}
	end := int64(0)
	for i := range 20 {
		end = put(t, s, "a", fmt.Sprint(20+i))
	}
	swept(t, s)
	if kvs := list(t, s, compacted).Kvs; len(kvs) != 1 || string(kvs[0].Value) != "19" {
		t.Errorf("at revision %d: %v", compacted, kvs)
	}
	f := follow(s, everything(), compacted)
	defer f.Close()
	got, err := f.until(ctx, at(end))
	if err != nil || len(got) != 21 || got[0].Cur.Key != "b" || !got[0].Cur.Tombstone() {
		t.Errorf("from the compacted revision: %d changes, %v", len(got), err)
	}
	early := follow(s, everything(), compacted-1)
	defer early.Close()
	var gone *CompactedError
	if _, err := early.next(ctx); !errors.As(err, &gone) || gone.Revision != compacted {
		t.Errorf("from the revision before: %v", err)
	}
}

// swept waits until the writer has removed what is compacted: requests wait for
// slices, and when nothing waits, it sweeps to the end.
func swept(t testing.TB, s *Store) {
	t.Helper()
	for {
		more, err := s.log.Sweep(t.Context(), 1000)
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return
		}
	}
}

// Compaction goes on under watchers that are behind: each sees everything in
// order, or hears that it cannot.
func TestWatchersMeetCompaction(t *testing.T) {
	t.Parallel()
	s := open(t, smallHistory)
	ctx, cancel := context.WithCancel(within(t, 60*time.Second))
	defer cancel()
	var writing, watching sync.WaitGroup
	stop := make(chan struct{})
	for w := range 4 {
		writing.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 3))
			for i := range 150 {
				var err error
				switch key := fmt.Sprintf("k%d", r.IntN(10)); {
				case i%10 == 9:
					_, err = s.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
				case i%30 == 5:
					_, err = s.Compact(ctx, s.State().Revision-int64(r.IntN(20)))
					err = ignoreCompacted(err)
				default:
					_, err = s.Put(ctx, putReq(key, fmt.Sprint(w, i)))
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	compactions := make([]int, 6)
	for w := range compactions {
		watching.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 4))
			for last := false; !last; {
				select {
				case <-stop:
					last = true
				default:
				}
				now := s.State()
				start := max(1, now.Compacted+r.Int64N(now.Revision-now.Compacted+1)) // 0 is from now on
				f := follow(s, everything(), start)
				got, err := f.until(ctx, at(now.Revision))
				f.Close()
				var gone *CompactedError
				switch {
				case errors.As(err, &gone) && gone.Revision > start:
					compactions[w]++
				case err != nil:
					t.Errorf("watcher from %d: %v", start, err)
					return
				default:
					if err := gapless(got, start, now.Revision); err != nil {
						t.Errorf("watcher from %d: %v", start, err)
						return
					}
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	watching.Wait()
	t.Logf("compacted under a watcher: %v", compactions)
}

// gapless checks that there is a change of every revision: each request of the
// test makes one, or none if a key to be deleted does not exist.
func gapless(changes []engine.Change, from, to int64) error {
	next := max(from, 2)
	for _, c := range changes {
		if c.Cur.ModRevision() != next {
			return fmt.Errorf("revision %d comes where %d should be", c.Cur.ModRevision(), next)
		}
		next++
	}
	if next <= to {
		return fmt.Errorf("ends before revision %d, want %d", next, to)
	}
	return nil
}

func ignoreCompacted(err error) error {
	if errors.Is(err, rpctypes.ErrGRPCCompacted) {
		return nil
	}
	return err
}

func TestWatchFromTheFuture(t *testing.T) {
	t.Parallel()
	s := open(t)
	f := follow(s, everything(), s.State().Revision+3)
	defer f.Close()
	put(t, s, "a", "1")
	put(t, s, "a", "2")
	third := put(t, s, "a", "3")
	end := put(t, s, "a", "4")
	got, err := f.until(within(t, 10*time.Second), at(end))
	if err != nil || len(got) != 2 || got[0].Cur.ModRevision() != third {
		t.Errorf("%d changes, %v", len(got), err)
	}
}

// A watcher hears of its keys only, and not after it was closed.
func TestWatchersHearOfTheirKeysOnly(t *testing.T) {
	t.Parallel()
	s := open(t)
	type watch struct {
		in   engine.Interval
		want int
	}
	watches := []watch{
		{engine.Interval{Key: "b"}, 1}, {engine.Interval{Key: "b", End: "c"}, 2}, {engine.Interval{Key: "b", End: "\x00"}, 4},
		{engine.Interval{Key: "b", End: "c"}, 2}, {engine.Interval{Key: "x"}, 0}, {engine.Interval{Key: "\x00", End: "b"}, 1},
	}
	wakes := make([]int, len(watches)) // under the hub's lock
	list := make([]*Watcher, len(watches))
	for i, w := range watches {
		list[i], _ = s.Watch(w.in, 0, func() { wakes[i]++ })
	}
	for _, key := range []string{"a", "b", "bb", "c", "\xff"} {
		put(t, s, key, "")
	}
	for i, w := range list {
		b, err := w.Take(t.Context())
		if err != nil || len(b.Changes) != watches[i].want || wakes[i] != min(1, watches[i].want) {
			t.Errorf("%q: %d changes, want %d; %d wakes, %v", watches[i].in, len(b.Changes), watches[i].want, wakes[i], err)
		}
		w.Close()
		w.Close()
	}
	if n := s.Watchers(); n != 0 || len(s.hub.exact) != 0 || s.hub.ranges.Len() != 0 {
		t.Errorf("left: %d watchers, %d keys, %d ranges", n, len(s.hub.exact), s.hub.ranges.Len())
	}
	put(t, s, "b", "")
	for i, w := range list {
		if b, err := w.Take(t.Context()); len(b.Changes) != 0 {
			t.Errorf("%q: %d changes after closing, %v", watches[i].in, len(b.Changes), err)
		}
	}
}
