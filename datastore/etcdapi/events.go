package etcdapi

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/datastore/engine"
)

// responseBytes is when a response is long enough. It may be longer: revisions
// are not split, unless the client knows fragments.
const responseBytes = 1 << 20

// take sends what a watch has not seen yet: all of it, or a part, and then it
// waits for its next turn.
func (st *stream) take(w *watch) error {
	batch, err := w.source.Take(st.rpc.Context())
	if err != nil {
		return st.fail(w, err)
	}
	changes := slices.DeleteFunc(batch.Changes, w.filtered)
	for len(changes) > 0 {
		n := w.portion(changes)
		revision := batch.Revision
		if n < len(changes) {
			revision = changes[n-1].Cur.ModRevision()
		}
		events, err := st.events(st.rpc.Context(), w, changes[:n])
		if err != nil {
			return st.fail(w, err)
		}
		if err := st.send(w, revision, events); err != nil {
			return err
		}
		changes = changes[n:]
	}
	switch {
	case batch.More:
		st.enqueue(w)
	case w.progress && w.sent < batch.Revision:
		st.progress.arm()
	}
	return nil
}

func (w *watch) filtered(c engine.Change) bool {
	if c.Cur.Tombstone() {
		return w.noDelete
	}
	return w.noPut
}

// portion is how many changes, at least one, make a response: whole revisions.
func (w *watch) portion(changes []engine.Change) int {
	size := 0
	for i, c := range changes {
		if size >= responseBytes && c.Cur.ModRevision() != changes[i-1].Cur.ModRevision() {
			return i
		}
		size += len(c.Cur.Key) + c.Cur.Size
		if w.prevKV && c.Prev != nil {
			size += len(c.Prev.Key) + c.Prev.Size
		}
	}
	return len(changes)
}

// events fetches the values of changes.
func (s *service) events(ctx context.Context, w *watch, changes []engine.Change) ([]*mvccpb.Event, error) {
	compacted := s.store.State().Compacted
	versions := make([]*engine.Version, 0, 2*len(changes))
	for _, c := range changes {
		versions = append(versions, c.Cur)
	}
	for _, c := range changes {
		if prev := w.previous(c, compacted); prev != nil {
			versions = append(versions, prev)
		}
	}
	values, err := s.store.Values(ctx, versions)
	if err != nil {
		return nil, err
	}
	events := make([]*mvccpb.Event, len(changes))
	prevs := values[len(changes):]
	for i, c := range changes {
		events[i] = event(c, values[i])
		if prev := w.previous(c, compacted); prev != nil {
			events[i].PrevKv = prev.KV(prevs[0])
			prevs = prevs[1:]
		}
	}
	return events, nil
}

// previous is what a key was before a change, if the watch is to be sent that.
// The store still has it at the compacted revision, but a watch that begins there
// goes without, as in etcd: Kubernetes relies on it.
func (w *watch) previous(c engine.Change, compacted int64) *engine.Version {
	if !w.prevKV || w.start == compacted && c.Cur.ModRevision() == compacted {
		return nil
	}
	return c.Prev
}

func event(c engine.Change, value []byte) *mvccpb.Event {
	e := &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: c.Cur.KV(value)}
	if c.Cur.Tombstone() {
		e.Type = mvccpb.Event_DELETE
	}
	return e
}

// send sends events; the client then knows everything up to a revision.
func (st *stream) send(w *watch, revision int64, events []*mvccpb.Event) error {
	for len(events) > 0 {
		n := len(events)
		if w.fragment {
			n = fragment(events)
		}
		err := st.rpc.Send(&pb.WatchResponse{
			Header: st.header(revision), WatchId: w.id, Events: events[:n], Fragment: n < len(events),
		})
		if err != nil {
			return err
		}
		events = events[n:]
	}
	w.sent = revision
	return nil
}

// fragment is how many events, at least one, fit into a response.
func fragment(events []*mvccpb.Event) int {
	size := 0
	for i, e := range events {
		size += proto.Size(e)
		if size > maxRequestBytes && i > 0 {
			return i
		}
	}
	return len(events)
}

// tellProgress sends what is to be said about revisions without events.
func (st *stream) tellProgress() error {
	st.mu.Lock()
	due, idle := st.due, len(st.ready) == 0
	st.due = false
	st.mu.Unlock()
	if due {
		if err := st.notifyAll(); err != nil {
			return err
		}
	}
	if st.asked && idle {
		return st.answerAsked()
	}
	return nil
}

// notifyAll tells each watch that wants to know it how far it is, unless it has
// heard so with an event. One that is behind hears it with its events.
func (st *stream) notifyAll() error {
	for _, w := range st.watches {
		if !w.progress {
			continue
		}
		revision, synced := st.store.Synced([]*datastore.Watcher{w.source})
		if !synced || revision <= w.sent || revision < w.start {
			continue
		}
		if err := st.rpc.Send(&pb.WatchResponse{Header: st.header(revision), WatchId: w.id}); err != nil {
			return err
		}
		w.sent = revision
	}
	return nil
}

// answerAsked answers the request for the progress of all watches, if they have
// all been sent everything. Otherwise one of them will be ready soon, or waits
// for a revision of the future: then it is tried again.
func (st *stream) answerAsked() error {
	sources, start := make([]*datastore.Watcher, 0, len(st.watches)), int64(0)
	for _, w := range st.watches {
		sources = append(sources, w.source)
		start = max(start, w.start)
	}
	if len(sources) == 0 {
		st.asked = false
		return nil
	}
	if start > st.store.State().Revision {
		st.progress.await(st)
	}
	revision, synced := st.store.Synced(sources)
	if !synced || revision < start {
		return nil
	}
	st.asked = false
	for _, w := range st.watches {
		w.sent = max(w.sent, revision)
	}
	return st.rpc.Send(&pb.WatchResponse{Header: st.header(revision), WatchId: clientv3.InvalidWatchID})
}
