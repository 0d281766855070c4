package datastore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/drivers/memory"
	kine "github.com/k3s-io/kine/pkg/server"
)

// backend is one that is tested. What it has at the start is its own business:
// revisions count from base.
type backend struct {
	testing.TB
	kine.Backend
	ctx  context.Context
	base int64
}

// The contract between kine's server and its drivers, run over kine's own driver
// in memory and over ours.
func TestBackends(t *testing.T) {
	t.Parallel()
	cases := map[string]func(*backend){
		"create": testCreate, "create after delete": testCreateAfterDelete, "get": testGet,
		"update": testUpdate, "delete": testDelete, "list": testList, "list stream": testListStream,
		"compact": testCompact, "watch": testWatch, "watch what is compacted": testWatchCompacted,
	}
	backends := map[string]func(*testing.T) kine.Backend{
		"kine's memory": func(t *testing.T) kine.Backend {
			_, b, err := memory.New(t.Context(), &sync.WaitGroup{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
		"ours": func(t *testing.T) kine.Backend {
			s := open(t)
			for id := int64(1); id <= 5; id++ { // kine's leases are numbers of seconds
				grant(t, s, id, 1000)
			}
			return Backend{s}
		},
		"ours, with history in the log": func(t *testing.T) kine.Backend {
			s := open(t, func(o *Options) { o.HistoryChanges, o.CacheBytes = 1, 1 })
			for id := int64(1); id <= 5; id++ {
				grant(t, s, id, 1000)
			}
			return Backend{s}
		},
	}
	for name, start := range backends {
		for what, run := range cases {
			t.Run(name+"/"+what, func(t *testing.T) {
				t.Parallel()
				b := &backend{TB: t, Backend: start(t), ctx: within(t, 30*time.Second)}
				if err := b.Start(b.ctx); err != nil {
					t.Fatal(err)
				}
				b.base, _ = b.CurrentRevision(b.ctx)
				run(b)
			})
		}
	}
}

func (b *backend) create(key, value string, lease int64) (revision int64) {
	b.Helper()
	revision, err := b.Create(b.ctx, key, []byte(value), lease)
	if err != nil {
		b.Fatalf("create %s: %v", key, err)
	}
	return revision
}

func (b *backend) update(key, value string, revision, lease int64) *kine.KeyValue {
	b.Helper()
	now, kv, ok, err := b.Update(b.ctx, key, []byte(value), revision, lease)
	if err != nil || !ok || kv == nil || kv.ModRevision != now {
		b.Fatalf("update %s: revision %d, %v, %v, %v", key, now, kv, ok, err)
	}
	return kv
}

// is compares a key; revisions are relative to the start.
func (b *backend) is(kv *kine.KeyValue, key, value string, created, modified, version, lease int64) {
	b.Helper()
	if kv == nil {
		b.Fatalf("%s does not exist", key)
	}
	got := fmt.Sprintf("%s=%s created %d, modified %d, version %d, lease %d", kv.Key, kv.Value, kv.CreateRevision-b.base, kv.ModRevision-b.base, kv.Version, kv.Lease)
	want := fmt.Sprintf("%s=%s created %d, modified %d, version %d, lease %d", key, value, created, modified, version, lease)
	if got != want {
		b.Errorf("%s, want %s", got, want)
	}
}

func (b *backend) revision(got, want int64) {
	b.Helper()
	if got -= b.base; got != want {
		b.Errorf("revision %d, want %d", got, want)
	}
}

func (b *backend) error(got, want error) {
	b.Helper()
	if !errors.Is(got, want) {
		b.Errorf("error %v, want %v", got, want)
	}
}

func testCreate(b *backend) {
	b.revision(b.create("/test/a", "v", 0), 1)
	_, err := b.Create(b.ctx, "/test/a", []byte("w"), 0)
	b.error(err, kine.ErrKeyExists)
	b.revision(b.create("/test/a/b", "", 0), 2)
	rev, n, err := b.Count(b.ctx, "/test/", "/test0", 0)
	b.error(err, nil)
	b.revision(rev, 2)
	if n != 2 {
		b.Errorf("%d keys", n)
	}
	if _, n, err = b.Count(b.ctx, "/test/", "/test0", b.base+1); n != 1 || err != nil {
		b.Errorf("%d keys at the first revision, %v", n, err)
	}
}

func testCreateAfterDelete(b *backend) {
	rev := b.create("/test/a", "v1", 0)
	if _, _, ok, err := b.Delete(b.ctx, "/test/a", rev); !ok || err != nil {
		b.Fatal(ok, err)
	}
	b.revision(b.create("/test/a", "v2", 0), 3)
	_, kv, err := b.Get(b.ctx, "/test/a", 0, false)
	b.error(err, nil)
	b.is(kv, "/test/a", "v2", 3, 3, 1, 0)
	if _, kv, err = b.Get(b.ctx, "/test/a", b.base+2, false); kv != nil || err != nil {
		b.Errorf("while it was deleted: %v, %v", kv, err)
	}
}

func testGet(b *backend) {
	rev := b.create("/test/a", "v1", 5)
	_, kv, err := b.Get(b.ctx, "/test/a", 0, false)
	b.error(err, nil)
	b.is(kv, "/test/a", "v1", 1, 1, 1, 5)
	b.update("/test/a", "v2", rev, 0)
	now, kv, err := b.Get(b.ctx, "/test/a", rev, false)
	b.error(err, nil)
	b.revision(now, 2)
	b.is(kv, "/test/a", "v1", 1, 1, 1, 5)
	if _, kv, err = b.Get(b.ctx, "/test/none", 0, false); kv != nil || err != nil {
		b.Errorf("a key that does not exist: %v, %v", kv, err)
	}
	if _, kv, err = b.Get(b.ctx, "/test/a", 0, true); err != nil || kv == nil || len(kv.Value) != 0 {
		b.Errorf("without its value: %v, %v", kv, err)
	}
	_, _, err = b.Get(b.ctx, "/test/a", b.base+20, false)
	b.error(err, kine.ErrFutureRev)
}

func testUpdate(b *backend) {
	rev := b.create("/test/a", "b", 1)
	kv := b.update("/test/a", "c", rev, 0)
	b.is(kv, "/test/a", "c", 1, 2, 2, 0)
	kv = b.update("/test/a", "d", kv.ModRevision, 3)
	b.is(kv, "/test/a", "d", 1, 3, 3, 3)
	now, kv, ok, err := b.Update(b.ctx, "/test/a", []byte("e"), rev, 0)
	b.error(err, nil)
	b.revision(now, 3)
	if ok {
		b.Error("updated at an old revision")
	}
	b.is(kv, "/test/a", "d", 1, 3, 3, 3)
	if _, kv, ok, err := b.Update(b.ctx, "/test/none", []byte("e"), rev, 0); kv != nil || ok || err != nil {
		b.Errorf("a key that does not exist: %v, %v, %v", kv, ok, err)
	}
}

func testDelete(b *backend) {
	rev := b.create("/test/a", "b", 1)
	now, kv, ok, err := b.Delete(b.ctx, "/test/a", rev)
	b.error(err, nil)
	b.revision(now, 2)
	b.is(kv, "/test/a", "b", 1, 1, 1, 1)
	if !ok {
		b.Error("not deleted")
	}
	// What comes back as ok differs between kine's drivers: in those with SQL a
	// key that does not exist counts as deleted, as it does in ours.
	now, kv, _, err = b.Delete(b.ctx, "/test/a", 0)
	b.error(err, nil)
	b.revision(now, 2)
	if kv != nil {
		b.Errorf("deleted again: %v", kv)
	}
	b.revision(b.create("/test/a", "c", 0), 3)
	if _, kv, ok, err = b.Delete(b.ctx, "/test/a", rev); ok || err != nil {
		b.Errorf("deleted at an old revision: %v, %v", ok, err)
	}
	b.is(kv, "/test/a", "c", 3, 3, 1, 0)
	now, kv, ok, err = b.Delete(b.ctx, "/test/a", 0)
	b.error(err, nil)
	b.revision(now, 4)
	b.is(kv, "/test/a", "c", 3, 3, 1, 0)
	if !ok {
		b.Error("not deleted, whatever its revision")
	}
}

func testList(b *backend) {
	for _, key := range []string{"a/b/c", "a", "b", "a/b", "c", "d/a", "d/b"} {
		b.create("/test/"+key, "v", 0)
	}
	b.create("/test/gone", "v", 0)
	if _, _, ok, err := b.Delete(b.ctx, "/test/gone", 0); !ok || err != nil {
		b.Fatal(ok, err)
	}
	for _, tt := range []struct {
		key, end        string
		limit, revision int64
		want            []string
	}{
		{"/test/", "/test0", 0, 0, []string{"a", "a/b", "a/b/c", "b", "c", "d/a", "d/b"}},
		{"/test/", "/test0", 4, 0, []string{"a", "a/b", "a/b/c", "b"}},
		{"/test/", "/test0", 0, 3, []string{"a", "a/b/c", "b"}},
		{"/test/", "/test0", 2, 3, []string{"a", "a/b/c"}},
		{"/test/", "/test0", 0, 8, []string{"a", "a/b", "a/b/c", "b", "c", "d/a", "d/b", "gone"}},
		{"/test/a", "/test/b", 0, 0, []string{"a", "a/b", "a/b/c"}},
		{"/test/c", "/test0", 0, 0, []string{"c", "d/a", "d/b"}},
		{"/none/", "/none0", 0, 0, nil},
	} {
		if tt.revision > 0 {
			tt.revision += b.base
		}
		for _, keysOnly := range []bool{false, true} {
			rev, kvs, err := b.List(b.ctx, tt.key, tt.end, tt.limit, tt.revision, keysOnly)
			b.error(err, nil)
			b.revision(rev, 9)
			var keys []string
			for _, kv := range kvs {
				keys = append(keys, kv.Key[len("/test/"):])
				if keysOnly != (len(kv.Value) == 0) {
					b.Errorf("keys only: %v, value %q", keysOnly, kv.Value)
				}
			}
			if !slices.Equal(keys, tt.want) {
				b.Errorf("list %+v: %q", tt, keys)
			}
		}
	}
	_, _, err := b.List(b.ctx, "/test/", "/test0", 0, b.base+20, false)
	b.error(err, kine.ErrFutureRev)
}

func testListStream(b *backend) {
	const n = 3*streamPage + 10
	for i := range n {
		b.create(fmt.Sprintf("/test/%06d", i), "v", 0)
	}
	for limit, want := range map[int64]int{0: n, 5: 5, streamPage: streamPage, streamPage + 1: streamPage + 1, n + 5: n} {
		result := b.ListStream(b.ctx, "/test/", "/test0", limit, 0, false)
		b.revision(result.CurrentRevision, n)
		got, last := 0, ""
		for kv := range result.KVc {
			if kv.Key <= last {
				b.Fatalf("%s after %s", kv.Key, last)
			}
			got, last = got+1, kv.Key
		}
		b.error(<-result.Errorc, nil)
		if got != want {
			b.Errorf("limit %d: %d keys, want %d", limit, got, want)
		}
	}
}

func testCompact(b *backend) {
	rev := b.create("/test/a", "v1", 0)
	b.create("/test/b", "v", 0)
	b.update("/test/a", "v2", rev, 0)
	now, err := b.Compact(b.ctx, b.base+2)
	b.error(err, nil)
	b.revision(now, 3)
	_, _, err = b.List(b.ctx, "/test/", "/test0", 0, b.base+1, false)
	b.error(err, kine.ErrCompacted)
	_, kvs, err := b.List(b.ctx, "/test/", "/test0", 0, b.base+2, false)
	b.error(err, nil)
	if len(kvs) != 2 || string(kvs[0].Value) != "v1" {
		b.Errorf("at the compacted revision: %v", kvs)
	}
	if _, err := b.Compact(b.ctx, b.base+1); err == nil {
		b.Error("compacted at an older revision")
	}
}

// events collects n events, and checks the order of the batches.
func (b *backend) events(w kine.WatchResult, n int) (all []*kine.Event) {
	b.Helper()
	last := int64(0)
	for first := true; first || len(all) < n; first = false {
		select {
		case batch, ok := <-w.Eventc:
			if !ok {
				b.Fatalf("ended after %d events", len(all))
			}
			for _, e := range batch.Events {
				if e.KV.ModRevision <= last || e.KV.ModRevision > batch.CurrentRev {
					b.Fatalf("event of %d after %d, in a batch up to %d", e.KV.ModRevision, last, batch.CurrentRev)
				}
			}
			if batch.CurrentRev < last {
				b.Fatalf("batch up to %d after %d", batch.CurrentRev, last)
			}
			last = batch.CurrentRev
			all = append(all, batch.Events...)
		case err := <-w.Errorc:
			b.Fatal(err)
		case <-b.ctx.Done():
			b.Fatalf("%d events, want %d", len(all), n)
		}
	}
	return all
}

func testWatch(b *backend) {
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	rev := b.create("/test/a", "v1", 0)
	now := b.Watch(ctx, 0)
	b.events(now, 0) // the first batch, which may be empty
	kv := b.update("/test/a", "v2", rev, 0)
	if _, _, ok, err := b.Delete(b.ctx, "/test/a", kv.ModRevision); !ok || err != nil {
		b.Fatal(ok, err)
	}
	b.create("/test/a", "v3", 0)
	before := b.Watch(ctx, rev)
	for name, events := range map[string][]*kine.Event{
		"from now": b.events(now, 3), "from before": b.events(before, 4)[1:],
	} {
		b.is(events[0].KV, "/test/a", "v2", 1, 2, 2, 0)
		b.is(events[0].PrevKV, "/test/a", "v1", 1, 1, 1, 0)
		if e := events[1]; !e.Delete || e.KV.ModRevision != b.base+3 || string(e.PrevKV.Value) != "v2" {
			b.Errorf("%s: the deletion is %v, after %v", name, e, e.PrevKV)
		}
		if e := events[2]; !e.Create || e.Delete || e.KV.ModRevision != b.base+4 {
			b.Errorf("%s: the creation is %v", name, e)
		}
	}
	cancel()
	for range now.Eventc { // ends
	}
}

func testWatchCompacted(b *backend) {
	rev := b.create("/test/a", "v1", 0)
	for i := range 5 {
		rev = b.update("/test/a", fmt.Sprint(i), rev, 0).ModRevision
	}
	if _, err := b.Compact(b.ctx, b.base+4); err != nil {
		b.Fatal(err)
	}
	if w := b.Watch(b.ctx, b.base+2); w.CompactRevision != b.base+4 {
		b.Errorf("compacted at %d, want %d", w.CompactRevision-b.base, 4)
	}
	// kine's memory also sends the compacted revision, which was not asked for.
	events := b.events(b.Watch(b.ctx, b.base+5), 2)
	if last := events[len(events)-2:]; last[0].KV.ModRevision != b.base+5 || last[1].KV.ModRevision != b.base+6 {
		b.Errorf("events %v", events)
	}
}
