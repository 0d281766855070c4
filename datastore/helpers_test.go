package datastore

import (
	"context"
	"fmt"
	"math"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/limpetio/limpet/datastore/engine"
)

// everything is the interval of all keys.
func everything() engine.Interval { return engine.Interval{Key: "\x00", End: "\x00"} }

func openAt(t testing.TB, path string, options ...func(*Options)) *Store {
	t.Helper()
	opts := Options{Path: path}
	for _, o := range options {
		o(&opts)
	}
	s, err := Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(context.Background()); err != nil {
		t.Errorf("close: %v", err)
	}
}

// open is a new store, which is closed when the test ends.
func open(t testing.TB, options ...func(*Options)) *Store {
	t.Helper()
	s := openAt(t, filepath.Join(t.TempDir(), "state.db"), options...)
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

// smallHistory leaves most of the history to the log.
func smallHistory(o *Options) { o.HistoryChanges = 8 }

func putReq(key, value string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

func put(t testing.TB, s *Store, key, value string) (revision int64) {
	t.Helper()
	resp, err := s.Put(t.Context(), putReq(key, value))
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return resp.Header.Revision
}

func remove(t testing.TB, s *Store, key string) (revision int64) {
	t.Helper()
	resp, err := s.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte(key)})
	if err != nil {
		t.Fatalf("delete %s: %v", key, err)
	}
	return resp.Header.Revision
}

func list(t testing.TB, s *Store, revision int64) *pb.RangeResponse {
	t.Helper()
	resp, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision})
	if err != nil {
		t.Fatalf("list at %d: %v", revision, err)
	}
	return resp
}

func get(t testing.TB, s *Store, key string) *mvccpb.KeyValue {
	t.Helper()
	resp, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte(key)})
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	if len(resp.Kvs) == 0 {
		return nil
	}
	return resp.Kvs[0]
}

// follower is a watcher with what wakes it.
type follower struct {
	*Watcher
	s    *Store
	wake chan struct{}
}

func follow(s *Store, in engine.Interval, start int64) *follower {
	f := &follower{s: s, wake: make(chan struct{}, 1)}
	f.wake <- struct{}{} // before there can be another one
	f.Watcher, _ = s.Watch(in, start, func() {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	})
	return f
}

// next waits for changes.
func (f *follower) next(ctx context.Context) (Batch, error) {
	for {
		b, err := f.Take(ctx)
		if err != nil || len(b.Changes) > 0 {
			return b, err
		}
		if b.More {
			continue
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
			return b, ctx.Err()
		}
	}
}

// until collects changes up to and with the revision that target tells, sooner
// or later, and checks what every watcher may rely on.
func (f *follower) until(ctx context.Context, target <-chan int64) (all []engine.Change, err error) {
	seen, revision := int64(0), int64(math.MaxInt64) // everything up to here; and where it ends
	for {
		b, err := f.Take(ctx)
		if err != nil {
			return all, err
		}
		for _, c := range b.Changes {
			mod := c.Cur.ModRevision()
			switch {
			case len(all) > 0 && c.Cur.ID <= all[len(all)-1].Cur.ID:
				return all, fmt.Errorf("change %d.%x of %q came after %x", mod, c.Cur.ID, c.Cur.Key, all[len(all)-1].Cur.ID)
			case mod <= seen:
				return all, fmt.Errorf("change of revision %d came after all up to %d", mod, seen)
			case mod > b.Revision:
				return all, fmt.Errorf("change of revision %d is in a batch up to %d", mod, b.Revision)
			case !f.in.Contains(c.Cur.Key):
				return all, fmt.Errorf("change of %q for %q", c.Cur.Key, f.in)
			}
			all = append(all, c)
		}
		if b.Revision < seen {
			return all, fmt.Errorf("a batch up to %d came after one up to %d", b.Revision, seen)
		}
		seen = b.Revision
		// What a watcher has heard of, everybody can read.
		if now := f.s.State().Revision; now < seen {
			return all, fmt.Errorf("a watcher is at revision %d, and the store at %d", seen, now)
		}
		if seen >= revision {
			return all, nil
		}
		if b.More {
			continue
		}
		select {
		case <-f.wake:
		case revision = <-target:
			target = nil
		case <-ctx.Done():
			return all, fmt.Errorf("at revision %d of %d: %w", seen, revision, ctx.Err())
		}
	}
}

// at is a target that is known.
func at(revision int64) <-chan int64 {
	c := make(chan int64, 1)
	c <- revision
	return c
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// copyDatabase copies the files of a store that is in use, as a power cut would
// leave them. Another process does it: closing a file of the database here would
// drop SQLite's locks.
func copyDatabase(t testing.TB, from, to string) {
	t.Helper()
	for _, suffix := range []string{"", "-wal"} {
		if out, err := exec.Command("cp", from+suffix, to+suffix).CombinedOutput(); err != nil {
			t.Fatalf("copy: %v: %s", err, out)
		}
	}
}
