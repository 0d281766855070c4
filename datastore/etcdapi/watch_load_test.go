package etcdapi

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/limpetio/limpet/datastore"
)

func (f *fixture) rawWatchOf(t testing.TB, maxBytes int) *rawWatch {
	t.Helper()
	stream, err := pb.NewWatchClient(f.conn(t, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxBytes)))).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	return &rawWatch{stream, t}
}

// A client that does not read for a while gets everything once and in order
// when it does; others do not notice. It is far more than the store keeps for a
// watch, and than it keeps in memory.
func TestWatchSlowClient(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{HistoryChanges: 100}, Options{ProgressInterval: 10 * time.Millisecond})
	slow, quick := f.rawWatch(t), f.rawWatch(t)
	for _, w := range []*rawWatch{slow, quick} {
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("b"), PrevKv: true, ProgressNotify: true, WatchId: 5})
	}
	const writers, each = 32, 100
	seen := make(chan error, 1)
	go func() { seen <- readAll(quick, writers*each) }()
	value := strings.Repeat("x", 2000) // 6 MB and as much of before
	var wg sync.WaitGroup
	ctx := soon(t)
	for i := range writers {
		wg.Go(func() {
			for n := range each {
				key := fmt.Sprintf("a%d", i)
				if n%10 == 9 {
					if _, err := f.Delete(ctx, key); err != nil {
						t.Error(err)
					}
				} else if _, err := f.Put(ctx, key, value); err != nil {
					t.Error(err)
				}
				if n%10 == 0 {
					if _, err := f.Put(ctx, "other", value); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := <-seen; err != nil {
		t.Fatalf("the quick client: %v", err)
	}
	if err := readAll(slow, writers*each); err != nil {
		t.Fatalf("the slow client: %v", err)
	}
}

// readAll reads n events, checks their order, and that headers keep to it.
func readAll(w *rawWatch, n int) error {
	var last, header int64
	versions := map[string]int64{}
	for seen := 0; seen < n; {
		resp, err := w.Recv()
		if err != nil {
			return fmt.Errorf("after %d events: %w", seen, err)
		}
		if resp.Canceled || resp.Header.Revision < header {
			return fmt.Errorf("after revision %d: %v", header, resp.Header)
		}
		for _, e := range resp.Events {
			key := string(e.Kv.Key)
			if e.Kv.ModRevision <= last || e.Kv.ModRevision <= header || e.Kv.ModRevision > resp.Header.Revision {
				return fmt.Errorf("event of revision %d after %d in a response of %d after %d", e.Kv.ModRevision, last, resp.Header.Revision, header)
			}
			// None of the key is missing: versions count.
			if deleted := e.Type == clientv3.EventTypeDelete; !deleted && e.Kv.Version != versions[key]+1 || deleted && versions[key] == 0 {
				return fmt.Errorf("version %d of %s after %d", e.Kv.Version, key, versions[key])
			}
			if (e.PrevKv != nil) != (versions[key] > 0) || e.PrevKv != nil && e.PrevKv.Version != versions[key] {
				return fmt.Errorf("before version %d of %s was %v", e.Kv.Version, key, e.PrevKv)
			}
			last, versions[key] = e.Kv.ModRevision, e.Kv.Version
			seen++
		}
		header = resp.Header.Revision
	}
	return nil
}

// A slow client that is overtaken by a compaction is told.
func TestWatchSlowClientCompacted(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{HistoryChanges: 10}, Options{})
	w := f.rawWatch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("b")})
	last := f.fill(t, "a", 4000, strings.Repeat("x", 10_000)) // 40 MB
	if _, err := f.Compact(soon(t), last); err != nil {
		t.Fatal(err)
	}
	at := int64(1)
	for {
		resp := w.next()
		if resp.Canceled {
			if resp.CompactRevision < last || at >= last {
				t.Errorf("canceled after %d: %v", at, resp)
			}
			return
		}
		for _, e := range resp.Events {
			if e.Kv.ModRevision != at+1 {
				t.Fatalf("%d after %d", e.Kv.ModRevision, at)
			}
			at = e.Kv.ModRevision
		}
	}
}

func TestManyWatchers(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	const streams, each = 10, 1000
	before := heap()
	all := make([]*rawWatch, streams)
	for i := range all {
		w := f.rawWatch(t)
		for n := range each { // half of them on a range
			r := &pb.WatchCreateRequest{Key: []byte("key"), ProgressNotify: true}
			if n%2 == 0 {
				r.RangeEnd = fmt.Appendf(nil, "key%d", n)
			}
			w.create(r)
		}
		all[i] = w
	}
	t.Logf("%d bytes for each of %d watchers", (heap()-before)/(streams*each), streams*each)
	if n := f.store.Watchers(); n != streams*each {
		t.Fatalf("%d watchers", n)
	}

	ctx := soon(t)
	start := time.Now()
	if _, err := f.Put(ctx, "key", "value"); err != nil {
		t.Fatal(err)
	}
	committed := time.Since(start)
	var wg sync.WaitGroup
	for _, w := range all {
		wg.Go(func() {
			for range each {
				if resp, err := w.Recv(); err != nil || len(resp.Events) != 1 {
					t.Errorf("got %v, %v", resp, err)
					return
				}
			}
		})
	}
	wg.Wait()
	t.Logf("one write: answered after %v, with all watchers after %v", committed, time.Since(start))
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
