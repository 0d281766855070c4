package datastore

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/limpetio/limpet/datastore/engine"
	"github.com/limpetio/limpet/datastore/sqlog"
)

const (
	// maxBatch bounds the requests of a commit, so that the first of them does
	// not wait for a transaction without end.
	maxBatch = 512
	// maxBatchBytes bounds the values of a commit.
	maxBatchBytes = 8 << 20
	// sweepRows is a slice of compaction: some milliseconds on an SD card.
	sweepRows = 200
	// sweepEvery is how many commits may pass between slices under load.
	sweepEvery = 32
)

// request is something that writes.
type request struct {
	ctx   context.Context
	size  int
	apply func(*engine.Pending) error
	done  chan error
}

// queue holds what waits for the writer.
type queue struct {
	mu     sync.Mutex
	list   []*request
	closed bool
	wake   chan struct{}
}

var errClosed = errors.New("the datastore is being closed")

func (q *queue) add(r *request) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return errClosed
	}
	q.list = append(q.list, r)
	q.signal()
	return nil
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take removes what goes into the next commit.
func (q *queue) take() []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, bytes := 0, 0
	for n < len(q.list) && n < maxBatch && (n == 0 || bytes+q.list[n].size <= maxBatchBytes) {
		bytes += q.list[n].size
		n++
	}
	batch := q.list[:n:n]
	if q.list = q.list[n:]; len(q.list) == 0 {
		q.list = nil
	}
	return batch
}

func (q *queue) shut() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
}

// write runs apply in its turn and returns when what it did is on the disk, or
// has failed. When it returns because ctx is done, it may be either.
func (s *Store) write(ctx context.Context, size int, apply func(*engine.Pending) error) error {
	r := &request{ctx: ctx, size: size, apply: apply, done: make(chan error, 1)}
	if err := s.queue.add(r); err != nil {
		return StatusOf(err)
	}
	select {
	case err := <-r.done:
		return StatusOf(err)
	case <-ctx.Done():
		return StatusOf(ctx.Err())
	}
}

// writeLoop is the only writer. It sleeps when there is nothing to do.
func (s *Store) writeLoop() {
	sweeping, sinceSweep := true, 0 // a sweep may have been interrupted by the last end
	for {
		batch := s.queue.take()
		switch {
		case len(batch) > 0:
			if s.commit(batch) {
				sweeping = true
			}
			sinceSweep++
			if !sweeping || sinceSweep < sweepEvery {
				continue
			}
		case !sweeping:
			select {
			case <-s.queue.wake:
			case <-s.closing.Done():
				if batch = s.queue.take(); len(batch) == 0 {
					return
				}
				s.commit(batch)
			}
			continue
		case s.closing.Err() != nil:
			sweeping = false // the next start goes on
			continue
		}
		sinceSweep = 0
		sweeping = s.sweep()
	}
}

// sweep removes a slice of what compaction has made useless; it reports whether
// there is more.
func (s *Store) sweep() bool {
	start := time.Now()
	more, err := s.log.Sweep(s.closing, sweepRows)
	s.metrics.sweep.Observe(time.Since(start).Seconds())
	if err != nil && s.closing.Err() == nil {
		// Nothing is lost: the next compaction tries again.
		s.logger.Warn("compaction could not remove old records; it goes on with the next one", "error", err)
		return false
	}
	return more && err == nil
}

// commit applies requests to a state of their own, makes it durable, and then
// makes it the state of all. It reports whether there is something to sweep.
func (s *Store) commit(requests []*request) (compacted bool) {
	before := s.State()
	// What is queued when the store is being closed is written, too.
	pending := before.Begin(reader{ctx: context.Background(), Store: s})
	errs := make([]error, len(requests))
	for i, r := range requests {
		if errs[i] = r.ctx.Err(); errs[i] == nil { // who has gone away wants nothing written
			errs[i] = r.apply(pending)
		}
	}
	after := pending.State()
	batch := sqlog.Batch{Records: recordsOf(pending.Changes()), Leases: leasesOf(pending.LeaseChanges())}
	if after.Compacted != before.Compacted {
		batch.Compacted = after.Compacted
	}
	if len(batch.Records) > 0 || len(batch.Leases) > 0 || batch.Compacted != 0 {
		start := time.Now()
		err := s.log.Commit(context.Background(), batch) // not half of it because of one client
		s.metrics.committed(len(requests), len(batch.Records), time.Since(start), err)
		s.noteCommit(err)
		if err != nil {
			// All of them: what failed to compare did so against changes that
			// do not exist now.
			for _, r := range requests {
				r.done <- err
			}
			return false
		}
		for _, c := range pending.Changes() {
			s.cache.Add(c.Cur)
		}
		s.hub.publish(after, pending.Changes())
		s.lessor.changed(pending.LeaseChanges())
		if batch.Compacted != 0 {
			s.pages.forget(batch.Compacted)
		}
	}
	for i, r := range requests {
		r.done <- errs[i]
	}
	return batch.Compacted != 0
}

// noteCommit remembers how the last commit went. A full disk fails every one of
// them: the log gets a line when that begins and one when it is over.
func (s *Store) noteCommit(err error) {
	before := s.Failing()
	switch {
	case err != nil:
		s.failing.Store(&err)
		if before == nil {
			s.logger.Error("commits to the datastore fail; nothing of them is visible, and reads go on", "error", err)
		}
	case before != nil:
		s.failing.Store(nil)
		s.logger.Info("commits to the datastore succeed again")
	}
}

// Failing is why the last commit failed; nil if it did not.
func (s *Store) Failing() error {
	if err := s.failing.Load(); err != nil {
		return *err
	}
	return nil
}

func recordsOf(changes []engine.Change) []sqlog.Record {
	records := make([]sqlog.Record, len(changes))
	for i, c := range changes {
		v := c.Cur
		value, _ := v.Value() // it has just been made
		records[i] = sqlog.Record{
			ID: v.ID, Prev: v.Prev, Key: v.Key, CreateRevision: v.CreateRevision,
			Version: v.Version, Lease: v.Lease, Value: value, Size: v.Size,
		}
	}
	return records
}

func leasesOf(changes []engine.LeaseChange) []sqlog.LeaseChange {
	list := make([]sqlog.LeaseChange, len(changes))
	for i, c := range changes {
		list[i] = sqlog.LeaseChange{ID: c.ID, TTL: c.TTL, Revoked: c.Revoked}
	}
	return list
}

// writing is write for what answers.
func writing[T any](ctx context.Context, s *Store, size int, apply func(*engine.Pending) (*T, error)) (*T, error) {
	var resp *T
	err := s.write(ctx, size, func(p *engine.Pending) (err error) {
		resp, err = apply(p)
		return err
	})
	if err != nil {
		return nil, err // whoever gave up must not read what the writer may still write
	}
	return resp, nil
}

// Txn runs a transaction.
func (s *Store) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if !engine.Writes(r) {
		return s.readTxn(ctx, r)
	}
	return writing(ctx, s, proto.Size(r), func(p *engine.Pending) (*pb.TxnResponse, error) { return p.Txn(r) })
}

func (s *Store) readTxn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	for {
		state := s.State()
		resp, err := state.ReadTxn(r, reader{ctx: ctx, Store: s})
		if errors.Is(err, errSwept) && s.State() != state {
			continue // see Range; what reads an old revision fails properly then
		}
		return resp, StatusOf(err)
	}
}

// Put sets a key.
func (s *Store) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	return writing(ctx, s, len(r.Value), func(p *engine.Pending) (*pb.PutResponse, error) { return p.Put(r) })
}

// DeleteRange deletes keys.
func (s *Store) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	return writing(ctx, s, 0, func(p *engine.Pending) (*pb.DeleteRangeResponse, error) { return p.DeleteRange(r) })
}

// Compact forgets the history before a revision, and returns the current one.
// The records go later, in short slices.
func (s *Store) Compact(ctx context.Context, revision int64) (current int64, err error) {
	err = s.write(ctx, 0, func(p *engine.Pending) error { return p.Compact(revision) })
	return s.State().Revision, err
}
