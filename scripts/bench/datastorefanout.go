package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watcherCount is how many watch the same keys, each with a stream of its own.
const watcherCount = 100

// fanOut are the watchers of a server. A create waits until all of them have
// seen it: what is measured is the way to the watchers, and not how long a
// queue gets that grows without end.
type fanOut struct {
	deliveries sync.Map // of *delivery, by key
	broken     chan error

	mu   sync.Mutex
	each []time.Duration
}

// delivery is a key on its way to all watchers.
type delivery struct {
	begin time.Time
	each  [watcherCount]time.Duration // written by the watcher of that number
	left  atomic.Int32
	done  chan struct{}
}

// createWatched creates a key and waits until all watchers have it.
func (s *storeServer) createWatched(ctx context.Context, client, _ int) error {
	n := int(s.created.Add(1))
	key, value := numbered(watchedPrefix, n), content(n, objectSize)
	d := s.watchers.expect(key)
	defer s.watchers.deliveries.Delete(key)
	if _, err := s.create(ctx, client, key, value); err != nil {
		return err
	}
	return s.watchers.await(ctx, d)
}

func (f *fanOut) expect(key string) *delivery {
	d := &delivery{begin: time.Now(), done: make(chan struct{})}
	d.left.Store(watcherCount)
	f.deliveries.Store(key, d)
	return d
}

// await waits until everybody has seen it, and keeps how long it took.
func (f *fanOut) await(ctx context.Context, d *delivery) error {
	select {
	case <-d.done:
	case err := <-f.broken:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.each = append(f.each, d.each[:]...)
	return nil
}

// seen notes that a watcher has an event.
func (f *fanOut) seen(watcher int, key string, now time.Time) {
	v, ok := f.deliveries.Load(key)
	if !ok {
		return
	}
	d := v.(*delivery)
	d.each[watcher] = now.Sub(d.begin)
	if d.left.Add(-1) == 0 {
		close(d.done)
	}
}

// takeLatencies returns those since the last call.
func (f *fanOut) takeLatencies() []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	each := f.each
	f.each = nil
	return each
}

// openWatchers opens the watches unless they are open. They stay so until the
// connections are closed.
func (s *storeServer) openWatchers(ctx context.Context) error {
	if s.watchers != nil {
		return nil
	}
	f := &fanOut{broken: make(chan error, watcherCount)}
	for i := range watcherCount {
		// Not with ctx, which is only that of the measurement.
		stream, err := pb.NewWatchClient(s.conns[i%len(s.conns)]).Watch(context.WithoutCancel(ctx))
		if err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		create := &pb.WatchCreateRequest{Key: []byte(watchedPrefix), RangeEnd: prefixEnd(watchedPrefix), ProgressNotify: true}
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
		resp, err := stream.Recv()
		if err != nil || !resp.Created || resp.Canceled {
			return fmt.Errorf("watch: %w", errors.Join(err, errors.New("it was not created")))
		}
		go func() { f.broken <- f.receive(i, stream) }()
	}
	s.watchers = f
	return nil
}

func (f *fanOut) receive(watcher int, stream pb.Watch_WatchClient) error {
	for {
		resp, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("watcher %d: %w", watcher, err)
		}
		now := time.Now()
		for _, event := range resp.Events {
			f.seen(watcher, string(event.Kv.Key), now)
		}
	}
}
