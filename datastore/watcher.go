package datastore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"go.etcd.io/etcd/pkg/v3/adt"

	"github.com/limpetio/limpet/datastore/engine"
	"github.com/limpetio/limpet/datastore/sqlog"
)

const (
	// maxQueued is how many changes wait for one watcher in memory before it is
	// left to read them from the history.
	maxQueued = 2048
	// catchUpChanges and catchUpBytes bound what is read for it at once.
	catchUpChanges = 1000
	catchUpBytes   = 4 << 20
)

// Watcher follows the changes of an interval of keys, in their order, each of
// them once. One goroutine at a time may use it.
type Watcher struct {
	hub  *hub
	in   engine.Interval
	wake func()

	// Under hub.mu:
	queue  []engine.Change // handed over and not taken yet
	behind bool            // nothing is handed over: read on from next
	closed bool
	// next is the first revision that is wanted, or, for one that is behind, the
	// first that has not been taken or queued.
	next int64
}

// Batch is what a watcher has not seen yet.
type Batch struct {
	// Changes are of whole revisions.
	Changes []engine.Change
	// Revision is up to where the watcher has now seen everything.
	Revision int64
	// More is true if there is more to be had at once.
	More bool
}

// CompactedError is for a watcher that wants changes that have been compacted.
type CompactedError struct{ Revision int64 }

func (e *CompactedError) Error() string {
	return fmt.Sprintf("the history before revision %d has been compacted", e.Revision)
}

// Watch follows an interval from a revision on; 0 is from now on. wake is called,
// with the hub locked, when there is something to take; it must return at once.
// The caller takes once without being woken, and closes the watcher.
func (s *Store) Watch(in engine.Interval, start int64, wake func()) (w *Watcher, revision int64) {
	w = &Watcher{hub: s.hub, in: in, wake: wake}
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if start > 0 && start <= h.revision {
		w.behind, w.next = true, start
	} else {
		w.next = start // in the future: what comes before is not wanted
	}
	h.add(w)
	return w, h.revision
}

// Close ends the watching.
func (w *Watcher) Close() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if !w.closed {
		w.closed = true
		w.hub.remove(w)
	}
}

// offer hands over a change.
func (w *Watcher) offer(c engine.Change) {
	revision := c.Cur.ModRevision()
	switch {
	case w.behind || revision < w.next:
		return
	case len(w.queue) >= maxQueued && w.queue[len(w.queue)-1].Cur.ModRevision() != revision:
		w.behind, w.next = true, revision
		return
	}
	w.queue = append(w.queue, c)
	if len(w.queue) == 1 {
		w.wake()
	}
}

// Take returns what has happened since the last call; nothing, if nothing has.
// A *CompactedError means that the watcher cannot go on.
func (w *Watcher) Take(ctx context.Context) (Batch, error) {
	h := w.hub
	h.mu.Lock()
	if len(w.queue) > 0 {
		b := Batch{Changes: w.queue, Revision: h.revision, More: w.behind}
		if w.behind {
			b.Revision = w.queue[len(w.queue)-1].Cur.ModRevision()
		}
		w.queue = nil
		h.mu.Unlock()
		return b, nil
	}
	if !w.behind {
		b := Batch{Revision: h.revision}
		h.mu.Unlock()
		return b, nil
	}
	if compacted := h.store.State().Compacted; w.next < compacted {
		h.mu.Unlock()
		return Batch{}, &CompactedError{Revision: compacted}
	}
	if next, from := w.next, h.history.from; next < from {
		h.mu.Unlock()
		return w.fromLog(ctx, next, from)
	}
	defer h.mu.Unlock()
	return w.fromHistory(), nil
}

// fromHistory reads on from memory, with the hub locked.
func (w *Watcher) fromHistory() Batch {
	h := w.hub
	all := h.history.changes
	at := sort.Search(len(all), func(i int) bool { return all[i].Cur.ModRevision() >= w.next })
	b := Batch{Revision: h.revision}
	for ; at < len(all); at++ {
		revision := all[at].Cur.ModRevision()
		if len(b.Changes) >= catchUpChanges && b.Changes[len(b.Changes)-1].Cur.ModRevision() != revision {
			w.next = revision
			b.Revision, b.More = revision-1, true
			return b
		}
		if w.in.Contains(all[at].Cur.Key) {
			b.Changes = append(b.Changes, all[at])
		}
	}
	w.behind, w.next = false, 0
	return b
}

// fromLog reads on from the file what comes before the revision from, which is
// in memory. The hub is not locked: others go on.
func (w *Watcher) fromLog(ctx context.Context, next, from int64) (Batch, error) {
	s := w.hub.store
	records, err := s.log.After(ctx, engine.ID(next, 0)-1, catchUpChanges, catchUpBytes)
	if errors.Is(err, sqlog.ErrCompacted) {
		return Batch{}, &CompactedError{Revision: s.State().Compacted}
	}
	if err != nil {
		return Batch{}, fmt.Errorf("read older changes: %w", err)
	}
	// What is in memory is left to it. The log may have more than that already:
	// a commit that is not published yet.
	older := len(records)
	for older > 0 && sqlog.Revision(records[older-1].ID) >= from {
		older--
	}
	complete := older < len(records)
	if records = records[:older]; len(records) == 0 {
		w.next = from
		return Batch{Revision: from - 1, More: true}, nil
	}
	// Only whole revisions: the last may go on in the next read.
	last := sqlog.Revision(records[len(records)-1].ID)
	if first := sqlog.Revision(records[0].ID); !complete && last > first {
		records = slices.DeleteFunc(records, func(r sqlog.Record) bool { return sqlog.Revision(r.ID) == last })
		last--
	} else if !complete {
		if records, err = w.revision(ctx, first); err != nil {
			return Batch{}, err
		}
	}
	b := Batch{Revision: last, More: true}
	for _, r := range records {
		if !w.in.Contains(r.Key) {
			continue
		}
		c, err := s.change(ctx, r)
		if err != nil {
			return Batch{}, err
		}
		b.Changes = append(b.Changes, c)
	}
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	// What has been swept while it was read is not complete.
	if compacted := s.State().Compacted; next < compacted {
		return Batch{}, &CompactedError{Revision: compacted}
	}
	w.next = last + 1
	return b, nil
}

// revision reads a revision with more records than are read at once.
func (w *Watcher) revision(ctx context.Context, revision int64) ([]sqlog.Record, error) {
	var all []sqlog.Record
	for after := engine.ID(revision, 0) - 1; ; after = all[len(all)-1].ID {
		records, err := w.hub.store.log.After(ctx, after, catchUpChanges, catchUpBytes)
		if err != nil {
			return nil, fmt.Errorf("read changes of revision %d: %w", revision, err)
		}
		n := len(all)
		for _, r := range records {
			if sqlog.Revision(r.ID) == revision {
				all = append(all, r)
			}
		}
		if len(all) == n || len(all)-n < len(records) {
			return all, nil
		}
	}
}

// change is a record together with what it superseded.
func (s *Store) change(ctx context.Context, r sqlog.Record) (engine.Change, error) {
	c := engine.Change{Cur: s.version(r)}
	if r.Prev == 0 {
		return c, nil
	}
	prev, err := reader{ctx: ctx, Store: s}.Record(r.Prev)
	if err != nil {
		return engine.Change{}, err
	}
	if prev != nil && !prev.Tombstone() {
		c.Prev = prev
	}
	return c, nil
}

// Synced reports whether all of the watchers have taken everything up to the
// returned revision.
func (s *Store) Synced(watchers []*Watcher) (revision int64, ok bool) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	for _, w := range watchers {
		if w.behind || len(w.queue) > 0 {
			return 0, false
		}
	}
	return s.hub.revision, true
}

// Values returns the values of versions that a watcher was handed.
func (s *Store) Values(ctx context.Context, versions []*engine.Version) ([][]byte, error) {
	values, err := reader{ctx: ctx, Store: s}.Values(versions)
	return values, StatusOf(err)
}

// affine is the interval as the tree wants it: empty is after all others.
func (w *Watcher) affine() adt.Interval {
	if w.in.End == "\x00" {
		return adt.NewStringAffineInterval(w.in.Key, "")
	}
	return adt.NewStringAffineInterval(w.in.Key, w.in.End)
}
