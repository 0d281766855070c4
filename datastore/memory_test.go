package datastore

import (
	"bytes"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/limpetio/limpet/datastore/engine"
)

// heap is the memory that is in use after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkMemory says what 100 000 keys with values of 1 KiB cost in memory,
// with the default budget of 32 MiB for values: after they were written, after
// they were all read, and after a restart.
//
//	go test -run '^$' -bench Memory -benchtime 1x ./datastore
func BenchmarkMemory(b *testing.B) {
	const keys, most = 100_000, 150 << 20
	for b.Loop() {
		before := heap()
		used := func(s *Store, unit string) {
			n := heap() - before
			b.ReportMetric(float64(n)/(1<<20), unit)
			if n > most {
				b.Errorf("%s: %d bytes, want at most %d", unit, n, most)
			}
			runtime.KeepAlive(s)
		}
		path := filepath.Join(b.TempDir(), "state.db")
		s := openAt(b, path)
		for i := 0; i < keys; {
			r := &pb.TxnRequest{}
			for ; len(r.Success) < 100; i++ {
				value := bytes.Repeat([]byte{byte(i)}, 1<<10)
				r.Success = append(r.Success, putOp(fmt.Sprintf("/registry/configmaps/namespace-%02d/name-%06d", i%50, i), value, 0))
			}
			if _, err := s.Txn(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
		used(s, "MiB-written")
		page := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Limit: 500}
		for more := true; more; {
			resp, err := s.Range(b.Context(), page)
			if err != nil {
				b.Fatal(err)
			}
			more = resp.More
			page.Key = after(resp.Kvs[len(resp.Kvs)-1].Key)
		}
		used(s, "MiB-read")
		closeStore(b, s)
		s = openAt(b, path)
		if s.State().Len() != keys {
			b.Fatalf("%d keys", s.State().Len())
		}
		used(s, "MiB-reopened")
		closeStore(b, s)
	}
}

// What has become history is let go of.
func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	s := open(t, func(o *Options) { o.HistoryChanges, o.HistoryBytes, o.CacheBytes = 50, 10_000, 100_000 })
	for i := range 300 {
		put(t, s, fmt.Sprintf("key/%d", i%10), string(bytes.Repeat([]byte{'x'}, 1000)))
	}
	s.hub.mu.Lock()
	n, size := len(s.hub.history.changes), s.hub.history.bytes
	s.hub.mu.Unlock()
	if n > 50 || size > 10_000 {
		t.Errorf("%d changes with %d bytes in memory", n, size)
	}
	if cached, count := s.cache.Size(); count > 10+11 || cached > 30_000 {
		t.Errorf("%d values with %d bytes in memory: 10 are current, and 10 history", count, cached)
	}
	changes := make([]engine.Change, 0, n)
	s.hub.mu.Lock()
	changes = append(changes, s.hub.history.changes...)
	s.hub.mu.Unlock()
	for _, c := range changes {
		if _, ok := c.Cur.Value(); !ok {
			t.Errorf("the value of %q at %d is not in memory", c.Cur.Key, c.Cur.ModRevision())
		}
	}
}
