package etcdapi

import (
	"context"
	"errors"
	"io"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/datastore/engine"
	"github.com/limpetio/limpet/datastore/sqlog"
)

// What etcd says about a watch that cannot be made.
const (
	duplicateID = "mvcc: duplicate watch ID provided on the WatchStream"
	emptyRange  = "mvcc: watcher range is empty"
)

// stream is a client's stream with any number of watches. One goroutine, the
// handler, does everything, so a Send that blocks because the client does not
// read delays this stream and nothing else. Meanwhile the store keeps a bounded
// number of changes for each watch; what is beyond it reads again later.
type stream struct {
	*service
	rpc     pb.Watch_WatchServer
	watches map[int64]*watch
	nextID  int64
	asked   bool // for the progress of all watches

	// wake says that there is something below.
	wake chan struct{}

	mu    sync.Mutex // may be taken with the store's hub or the notifier locked
	ready []*watch   // that have something to take, the one that waits longest first
	due   bool       // progress notifications
}

// watch is one watch of a stream.
type watch struct {
	id       int64
	source   *datastore.Watcher
	start    int64 // the first revision that is wanted
	sent     int64 // the client knows everything up to this revision
	progress bool  // wants notifications
	prevKV   bool
	fragment bool
	noPut    bool
	noDelete bool
	closed   bool
	queued   bool // is in stream.ready; under stream.mu
}

// Watch serves a stream of watches.
func (s *service) Watch(rpc pb.Watch_WatchServer) error {
	st := &stream{service: s, rpc: rpc, watches: map[int64]*watch{}, wake: make(chan struct{}, 1)}
	defer st.close()
	err := st.serve()
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return err
}

func (st *stream) serve() error {
	requests, ended := receive(st.rpc.Context(), st.rpc.Recv)
	for {
		if err := st.await(requests, ended); err != nil {
			return err
		}
		if w := st.next(); w != nil {
			if err := st.take(w); err != nil {
				return err
			}
		}
		if err := st.tellProgress(); err != nil {
			return err
		}
	}
}

// await handles one request, or returns when there is something to send.
func (st *stream) await(requests <-chan *pb.WatchRequest, ended <-chan error) error {
	select {
	case r := <-requests:
		return st.handle(r)
	case <-st.wake:
		return nil
	case err := <-ended:
		if errors.Is(err, io.EOF) { // it asks for nothing more, and goes on reading
			return nil
		}
		return err
	case <-st.rpc.Context().Done():
		return st.rpc.Context().Err()
	case <-st.stopping:
		return rpctypes.ErrGRPCStopped
	}
}

func (st *stream) handle(r *pb.WatchRequest) error {
	switch {
	case r.GetCreateRequest() != nil:
		return st.create(r.GetCreateRequest())
	case r.GetCancelRequest() != nil:
		return st.cancel(r.GetCancelRequest().WatchId)
	case r.GetProgressRequest() != nil:
		st.asked = true
	}
	return nil // etcd ignores what it does not know, too
}

func (st *stream) create(r *pb.WatchCreateRequest) error {
	in := engine.Interval{Key: string(r.Key), End: string(r.RangeEnd)}
	if in.Key == "" {
		in.Key = "\x00" // the least key
	}
	id := r.WatchId
	if id == clientv3.AutoWatchID {
		for st.watches[st.nextID] != nil {
			st.nextID++
		}
		id = st.nextID
	}
	switch {
	case r.StartRevision < 0:
		return st.refuse(rpctypes.ErrCompacted.Error())
	case in.End != "" && in.End != "\x00" && in.Key >= in.End:
		return st.refuse(emptyRange)
	case st.watches[id] != nil:
		return st.refuse(duplicateID)
	case r.WatchId == clientv3.AutoWatchID:
		st.nextID++
	}

	w := &watch{id: id, start: r.StartRevision, progress: r.ProgressNotify, prevKV: r.PrevKv, fragment: r.Fragment}
	for _, filter := range r.Filters {
		w.noPut = w.noPut || filter == pb.WatchCreateRequest_NOPUT
		w.noDelete = w.noDelete || filter == pb.WatchCreateRequest_NODELETE
	}
	var revision int64
	w.source, revision = st.store.Watch(in, r.StartRevision, func() { st.enqueue(w) })
	w.sent = revision
	if w.start > 0 {
		w.sent = min(revision, w.start-1)
	}
	st.watches[id] = w
	if w.progress {
		st.progress.add(st)
	}
	if err := st.rpc.Send(&pb.WatchResponse{Header: st.header(revision), WatchId: id, Created: true}); err != nil {
		return err
	}
	st.enqueue(w) // it has to be looked at once, even if nothing happens
	return nil
}

func (st *stream) refuse(reason string) error {
	return st.rpc.Send(&pb.WatchResponse{
		Header: st.current(), WatchId: clientv3.InvalidWatchID, Created: true, Canceled: true, CancelReason: reason,
	})
}

// cancel ends a watch that the client does not want any more.
func (st *stream) cancel(id int64) error {
	w := st.watches[id]
	if w == nil {
		return nil
	}
	st.drop(w)
	return st.rpc.Send(&pb.WatchResponse{Header: st.current(), WatchId: id, Canceled: true})
}

// fail ends a watch that cannot go on, and tells the client why.
func (st *stream) fail(w *watch, err error) error {
	if ended := st.rpc.Context().Err(); ended != nil {
		return ended
	}
	st.drop(w)
	resp := &pb.WatchResponse{Header: st.current(), WatchId: w.id, Canceled: true}
	var compacted *datastore.CompactedError
	switch {
	case errors.As(err, &compacted):
		resp.CompactRevision = compacted.Revision
	case errors.Is(err, rpctypes.ErrGRPCCompacted), errors.Is(err, sqlog.ErrCompacted):
		// Swept while it waited to be sent.
		resp.CompactRevision = st.store.State().Compacted
	default:
		st.logger.Warn("a watch had to be ended", "watch", w.id, "error", err)
		resp.CancelReason = err.Error()
	}
	return st.rpc.Send(resp)
}

func (st *stream) drop(w *watch) {
	w.closed = true
	w.source.Close()
	delete(st.watches, w.id)
}

func (st *stream) close() {
	for _, w := range st.watches {
		st.drop(w)
	}
	st.progress.remove(st)
}

// enqueue notes that a watch has something to take. The store calls it with its
// hub locked.
func (st *stream) enqueue(w *watch) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !w.queued {
		w.queued = true
		st.ready = append(st.ready, w)
		st.signal()
	}
}

// notifyProgress notes that notifications are due.
func (st *stream) notifyProgress() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.due = true
	st.signal()
}

func (st *stream) signal() {
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// next is the watch whose turn it is; nil if there is none.
func (st *stream) next() *watch {
	st.mu.Lock()
	defer st.mu.Unlock()
	for len(st.ready) > 0 {
		w := st.ready[0]
		st.ready[0] = nil
		if st.ready = st.ready[1:]; len(st.ready) == 0 {
			st.ready = nil
		}
		w.queued = false
		if !w.closed {
			if st.ready != nil {
				st.signal() // so that requests come between
			}
			return w
		}
	}
	return nil
}
