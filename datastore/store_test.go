package datastore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/limpetio/limpet/datastore/engine"
	"github.com/limpetio/limpet/datastore/sqlog"
)

// Not parallel: it looks at all goroutines.
func TestCloseLeavesNothingRunning(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "state.db"))
	f := follow(s, everything(), 0)
	put(t, s, "a", "1")
	if _, err := s.LeaseGrant(t.Context(), 7, 60); err != nil {
		t.Fatal(err)
	}
	f.Close()
	closeStore(t, s)
	closeStore(t, s) // again does no harm
	if _, err := s.Put(t.Context(), putReq("a", "2")); !strings.Contains(fmt.Sprint(err), errClosed.Error()) {
		t.Errorf("put after close: %v", err)
	}
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		all := string(stacks[:runtime.Stack(stacks, true)])
		if n := strings.Count(all, "(*Store)") + strings.Count(all, "(*lessor)") + strings.Count(all, "sqlog.(*Log)") + strings.Count(all, "database/sql"); n == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still running:\n%s", all)
		}
	}
}

// Many writers at once: each change is there once, in an order that everybody
// agrees on, and whoever was answered can read it.
func TestConcurrentWriters(t *testing.T) {
	t.Parallel()
	for name, option := range map[string]func(*Options){
		"history in memory":  func(*Options) {},
		"history in the log": smallHistory,
		"values in the log":  func(o *Options) { o.CacheBytes, o.HistoryChanges = 1, 100 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, option)
			ctx := within(t, 60*time.Second)
			const writers, rounds = 16, 60
			var writing, watching sync.WaitGroup
			var increments atomic.Int64
			var ends []chan int64
			watch := func(in engine.Interval, start int64) {
				f, end := follow(s, in, start), make(chan int64, 1)
				ends = append(ends, end)
				watching.Go(func() {
					defer f.Close()
					got, err := f.until(ctx, end)
					if err == nil {
						err = sameAsLog(ctx, f, got)
					}
					if err != nil {
						t.Errorf("watcher of %q from %d: %v", in, start, err)
					}
				})
			}
			watch(everything(), 0)
			watch(engine.Interval{Key: "own/", End: "own0"}, 1)
			watch(engine.Interval{Key: "counter"}, 2)
			for w := range writers {
				writing.Go(func() {
					r := rand.New(rand.NewPCG(uint64(w), 1))
					for range rounds {
						if err := oneWrite(ctx, s, r, w, &increments); err != nil {
							t.Error(err)
							return
						}
					}
				})
				watch(everything(), 2) // in the middle of it
			}
			writing.Wait()
			watch(everything(), 2)
			for _, end := range ends {
				end <- s.State().Revision
			}
			watching.Wait()
			if v := get(t, s, "counter").Version; v != increments.Load() {
				t.Errorf("the counter was changed %d times, and answered %d times", v, increments.Load())
			}
		})
	}
}

// oneWrite changes something and checks that the answer can be relied on.
func oneWrite(ctx context.Context, s *Store, r *rand.Rand, writer int, increments *atomic.Int64) error {
	key := fmt.Sprintf("own/%02d/%d", writer, r.IntN(3))
	var revision int64
	switch r.IntN(4) {
	case 0:
		resp, err := s.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
		if err != nil {
			return err
		}
		revision = resp.Header.Revision
	case 1, 2:
		value := fmt.Sprint(r.Uint64())
		resp, err := s.Put(ctx, putReq(key, value))
		if err != nil {
			return err
		}
		revision = resp.Header.Revision
		now, err := s.Range(ctx, &pb.RangeRequest{Key: []byte(key)})
		if err != nil || len(now.Kvs) != 1 || string(now.Kvs[0].Value) != value || now.Kvs[0].ModRevision != revision {
			return fmt.Errorf("after putting %s = %s at %d: %v, %w", key, value, revision, now, err)
		}
	case 3: // add to the counter that all share
		now, err := s.Range(ctx, &pb.RangeRequest{Key: []byte("counter")})
		if err != nil {
			return err
		}
		mod := int64(0)
		if len(now.Kvs) > 0 {
			mod = now.Kvs[0].ModRevision
		}
		resp, err := s.Txn(ctx, &pb.TxnRequest{Compare: []*pb.Compare{modEquals("counter", mod)}, Success: []*pb.RequestOp{putOp("counter", nil, 0)}})
		if err != nil {
			return err
		}
		if resp.Succeeded {
			increments.Add(1)
		}
		revision = resp.Header.Revision
	}
	if now := s.State().Revision; now < revision {
		return fmt.Errorf("answered at revision %d, and the store is at %d", revision, now)
	}
	return nil
}

// sameAsLog compares what a watcher of everything since revision 2 got with the
// log: each change once, each with what was before.
func sameAsLog(ctx context.Context, f *follower, got []engine.Change) error {
	records, err := f.s.log.After(ctx, 0, 0, 0)
	if err != nil {
		return err
	}
	byID := map[int64]sqlog.Record{}
	n := 0
	for _, r := range records {
		byID[r.ID] = r
		if !f.in.Contains(r.Key) {
			continue
		}
		if n >= len(got) || got[n].Cur.ID != r.ID || got[n].Cur.Key != r.Key {
			return fmt.Errorf("change %d of %d is not that of the log, %x of %q", n, len(got), r.ID, r.Key)
		}
		prev := byID[r.Prev]
		if c := got[n]; prev.Version == 0 && c.Prev != nil || prev.Version != 0 && (c.Prev == nil || c.Prev.ID != r.Prev) {
			return fmt.Errorf("change %d of %q: %v was before it, want record %x", n, r.Key, c.Prev, r.Prev)
		}
		n++
	}
	if n != len(got) {
		return fmt.Errorf("%d changes, want %d", len(got), n)
	}
	return nil
}

// Values that do not fit into memory are read from the file, and are the same.
func TestValuesLargerThanTheCache(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	small := func(o *Options) { o.CacheBytes, o.CacheValue, o.HistoryChanges = 64<<10, 1<<10, 4 }
	s := openAt(t, path, small)
	f := follow(s, everything(), 0)
	value := func(i int) string { return strings.Repeat(fmt.Sprint(i), 1+i*i*20) }
	var last int64
	for i := range 60 {
		put(t, s, fmt.Sprintf("key/%02d", i), "old")
		last = put(t, s, fmt.Sprintf("key/%02d", i), value(i))
	}
	check := func(s *Store) {
		t.Helper()
		resp := list(t, s, 0)
		if len(resp.Kvs) != 60 {
			t.Fatalf("%d keys", len(resp.Kvs))
		}
		for i, kv := range resp.Kvs {
			if string(kv.Value) != value(i) || string(get(t, s, string(kv.Key)).Value) != value(i) {
				t.Fatalf("the value of %s has %d bytes, want %d", kv.Key, len(kv.Value), len(value(i)))
			}
		}
		if bytes, _ := s.cache.Size(); bytes > 64<<10 {
			t.Errorf("%d bytes in the cache", bytes)
		}
	}
	check(s)
	changes, err := f.until(within(t, 30*time.Second), at(last))
	if err != nil || len(changes) != 120 {
		t.Fatalf("%d changes, %v", len(changes), err)
	}
	for i, c := range changes {
		values, err := s.Values(t.Context(), []*engine.Version{c.Cur})
		if err != nil || i%2 == 1 && string(values[0]) != value(i/2) {
			t.Fatalf("change %d: %d bytes, %v", i, len(values[0]), err)
		}
	}
	// What refers to the value before it reads it.
	resp, err := s.Put(t.Context(), &pb.PutRequest{Key: []byte("key/59"), IgnoreValue: true, PrevKv: true})
	if err != nil || string(resp.PrevKv.Value) != value(59) {
		t.Fatalf("put without a value: %v", err)
	}
	check(s)
	f.Close()
	closeStore(t, s)
	s = openAt(t, path, small)
	check(s)
	closeStore(t, s)
}

func TestReopenAfterClose(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	s := openAt(t, path)
	first := put(t, s, "a", "1")
	put(t, s, "b", "1")
	removed := remove(t, s, "b")
	put(t, s, "a", "2")
	if _, err := s.LeaseGrant(t.Context(), 5, 100); err != nil {
		t.Fatal(err)
	}
	last, err := s.Put(t.Context(), &pb.PutRequest{Key: []byte("leased"), Lease: 5})
	if err != nil {
		t.Fatal(err)
	}
	before, old := list(t, s, 0), list(t, s, removed-1)
	closeStore(t, s)

	s = openAt(t, path)
	defer closeStore(t, s)
	if !s.Opened().Clean || s.Opened().Bumped {
		t.Errorf("opened %+v", s.Opened())
	}
	if after := list(t, s, 0); after.String() != before.String() {
		t.Errorf("got  %v\nwant %v", after, before)
	}
	if after := list(t, s, removed-1); fmt.Sprint(after.Kvs) != fmt.Sprint(old.Kvs) {
		t.Errorf("at revision %d:\ngot  %v\nwant %v", removed-1, after.Kvs, old.Kvs)
	}
	f := follow(s, everything(), first)
	defer f.Close()
	next := put(t, s, "a", "3")
	if next != last.Header.Revision+1 {
		t.Errorf("the next revision is %d, after %d", next, last.Header.Revision)
	}
	changes, err := f.until(within(t, 30*time.Second), at(next))
	if err != nil || len(changes) != int(next-first)+1 {
		t.Errorf("a watcher from revision %d to %d saw %d changes, %v", first, next, len(changes), err)
	}
	if keys := s.State().Attached(5); len(keys) != 1 {
		t.Errorf("the lease has keys %q", keys)
	}
}

// Pulling the plug: what was answered is there, and what others may have seen
// and is not there any more cannot be confused with what comes.
func TestReopenAfterACrash(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openAt(t, filepath.Join(dir, "state.db"))
	defer closeStore(t, s)
	for i := range 20 {
		put(t, s, fmt.Sprintf("key/%d", i%7), fmt.Sprint(i))
	}
	before := list(t, s, 0)
	copyDatabase(t, filepath.Join(dir, "state.db"), filepath.Join(dir, "copy.db"))
	lost := put(t, s, "key/1", "the copy does not have this")

	c := openAt(t, filepath.Join(dir, "copy.db"))
	defer closeStore(t, c)
	if c.Opened().Clean || !c.Opened().Bumped {
		t.Errorf("opened %+v", c.Opened())
	}
	after := list(t, c, 0)
	if fmt.Sprint(after.Kvs) != fmt.Sprint(before.Kvs) {
		t.Errorf("got  %v\nwant %v", after.Kvs, before.Kvs)
	}
	if next := put(t, c, "key/1", "new"); next <= lost+1000 {
		t.Errorf("revision %d comes after %d", next, lost)
	}
	_, err := c.Range(t.Context(), &pb.RangeRequest{Key: []byte("key/1"), Revision: lost})
	if !errors.Is(err, rpctypes.ErrGRPCCompacted) {
		t.Errorf("reading at revision %d: %v", lost, err)
	}
	f := follow(c, everything(), lost+1)
	defer f.Close()
	var compacted *CompactedError
	if _, err := f.next(within(t, 10*time.Second)); !errors.As(err, &compacted) || compacted.Revision <= lost {
		t.Errorf("watching from revision %d: %v", lost+1, err)
	}
}
