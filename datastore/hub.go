package datastore

import (
	"sync"

	"go.etcd.io/etcd/pkg/v3/adt"

	"github.com/limpetio/limpet/datastore/engine"
)

// hub brings changes to watchers.
//
// A watcher that keeps up is handed each change that it wants when it is
// committed, and no other: finding them costs by the number of watchers that
// match. One that does not keep up is left alone, and reads on from the history
// when it has the time: from memory, or from the log where it is older than that.
// It has missed something only when it is behind the last compaction.
type hub struct {
	store      *Store
	maxChanges int
	maxBytes   int64

	mu        sync.Mutex
	revision  int64 // all up to here has been handed out
	exact     map[string]map[*Watcher]struct{}
	ranges    adt.IntervalTree // of map[*Watcher]struct{}
	watchers  int
	history   history
	published func()
}

// history is the last changes, oldest first.
type history struct {
	changes []engine.Change
	bytes   int64 // of values that are only history
	// from is the first revision that is complete.
	from int64
}

func newHub(s *Store, opts Options) *hub {
	return &hub{
		store: s, maxChanges: opts.HistoryChanges, maxBytes: opts.HistoryBytes,
		exact: map[string]map[*Watcher]struct{}{}, ranges: adt.NewIntervalTree(),
	}
}

// start makes a loaded state that of the store.
func (h *hub) start(state *engine.State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.revision = state.Revision
	h.store.state.Store(state)
	h.forget(state.Compacted - 1)
}

// publish hands out changes and makes the state that they led to the store's.
func (h *hub) publish(state *engine.State, changes []engine.Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range changes {
		h.remember(c)
		for w := range h.exact[c.Cur.Key] {
			w.offer(c)
		}
		h.ranges.Visit(adt.NewStringAffinePoint(c.Cur.Key), func(iv *adt.IntervalValue) bool {
			for w := range iv.Val.(map[*Watcher]struct{}) {
				w.offer(c)
			}
			return true
		})
	}
	h.revision = state.Revision
	h.store.state.Store(state)
	h.forget(state.Compacted - 1)
	if h.published != nil {
		h.published()
	}
}

// OnPublish has fn called after each commit that changed something, with the hub
// locked: it must return at once.
func (s *Store) OnPublish(fn func()) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.hub.published = fn
}

// remember appends to the history and lets go of what is too much, a whole
// revision at a time.
func (h *hub) remember(c engine.Change) {
	h.history.changes = append(h.history.changes, c)
	h.history.bytes += historic(c)
	for len(h.history.changes) > h.maxChanges || h.history.bytes > h.maxBytes {
		oldest := h.history.changes[0].Cur.ModRevision()
		if oldest == c.Cur.ModRevision() {
			return // it may still grow
		}
		h.forget(oldest)
	}
}

// forget drops the history up to and with a revision.
func (h *hub) forget(revision int64) {
	n := 0
	for n < len(h.history.changes) && h.history.changes[n].Cur.ModRevision() <= revision {
		c := h.history.changes[n]
		h.history.bytes -= historic(c)
		if c.Prev != nil {
			h.store.cache.Drop(c.Prev)
		}
		h.history.changes[n] = engine.Change{}
		n++
	}
	h.history.changes = h.history.changes[n:]
	if len(h.history.changes) == 0 {
		h.history.changes = nil
	}
	h.history.from = max(h.history.from, revision+1)
}

// historic is the size of what a change keeps that is not current.
func historic(c engine.Change) int64 {
	if c.Prev == nil {
		return 0
	}
	return int64(c.Prev.Size)
}

func (h *hub) add(w *Watcher) {
	h.watchers++
	set := h.setOf(w, true)
	set[w] = struct{}{}
}

func (h *hub) remove(w *Watcher) {
	h.watchers--
	set := h.setOf(w, false)
	delete(set, w)
	if len(set) > 0 {
		return
	}
	if w.in.End == "" {
		delete(h.exact, w.in.Key)
	} else {
		h.ranges.Delete(w.affine())
	}
}

// setOf is the set of the watchers of the same interval.
func (h *hub) setOf(w *Watcher, create bool) map[*Watcher]struct{} {
	if w.in.End == "" {
		set := h.exact[w.in.Key]
		if set == nil && create {
			set = map[*Watcher]struct{}{}
			h.exact[w.in.Key] = set
		}
		return set
	}
	if iv := h.ranges.Find(w.affine()); iv != nil {
		return iv.Val.(map[*Watcher]struct{})
	}
	if !create {
		return nil
	}
	set := map[*Watcher]struct{}{}
	h.ranges.Insert(w.affine(), set)
	return set
}
