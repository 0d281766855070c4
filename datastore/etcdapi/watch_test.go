package etcdapi

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/limpetio/limpet/datastore"
)

func TestWatchStart(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]datastore.Options{"history": {}, "log": {HistoryChanges: 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, opts, Options{})
			f.put(t, "a", "1")
			f.put(t, "b", "1")
			f.del(t, "a")
			for i := range 20 {
				f.put(t, "c", fmt.Sprint(i))
			}
			w := f.rawWatch(t)
			if resp := w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("c"), StartRevision: 2}); resp.Header.Revision != 24 || resp.WatchId != 0 {
				t.Errorf("created: %v", resp)
			}
			for all := []string(nil); len(all) < 3; {
				resp := w.next()
				all = append(all, texts(resp.Events)...)
				if len(all) == 3 && !slices.Equal(all, []string{"PUT a", "PUT b", "DELETE a"}) {
					t.Errorf("got %v", all)
				}
				if last := resp.Events[len(resp.Events)-1].Kv.ModRevision; resp.Header.Revision < last || resp.Header.Revision > 24 {
					t.Errorf("revision %d for events up to %d", resp.Header.Revision, last)
				}
			}
			f.put(t, "b", "2")
			if resp := w.want(0, "PUT b"); resp.Header.Revision != 25 || resp.Events[0].Kv.ModRevision != 25 || resp.Header.MemberId == 0 {
				t.Errorf("got %v", resp)
			}
		})
	}
}

func TestWatchFromTheFuture(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{ProgressInterval: time.Millisecond})
	w := f.rawWatch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 4, ProgressNotify: true})
	w.askProgress() // cannot be answered before revision 4
	for range 3 {   // 2, 3, 4
		f.put(t, "a", "1")
	}
	if resp := w.want(0, "PUT a"); resp.Events[0].Kv.ModRevision != 4 {
		t.Errorf("got %v", resp)
	}
	if resp := w.want(clientv3.InvalidWatchID); resp.Header.Revision != 4 {
		t.Errorf("got %v", resp)
	}
}

func TestWatchCompacted(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	for range 10 {
		f.put(t, "a", "1")
	}
	if _, err := f.Compact(soon(t), 8); err != nil {
		t.Fatal(err)
	}
	w := f.rawWatch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 7})
	if resp := w.next(); !resp.Canceled || resp.CompactRevision != 8 || resp.WatchId != 0 {
		t.Errorf("got %v", resp)
	}
	resp := <-f.Watch(soon(t), "a", clientv3.WithRev(7))
	if !errors.Is(resp.Err(), rpctypes.ErrCompacted) || resp.CompactRevision != 8 {
		t.Errorf("etcd's client: %v", resp.Err())
	}
	for resp := range f.Watch(soon(t), "a", clientv3.WithRev(resp.CompactRevision)) {
		if err := resp.Err(); err != nil {
			t.Fatal(err)
		}
		if resp.Events[len(resp.Events)-1].Kv.ModRevision == 11 {
			break
		}
	}
}

// A watch may begin at the compacted revision. What that revision superseded is
// then missing, as in etcd, wherever the history is read from; later ones are whole.
func TestWatchAtCompacted(t *testing.T) {
	t.Parallel()
	for _, changes := range []int{0, 1} { // all in memory, or nearly all in the log
		f := serve(t, datastore.Options{HistoryChanges: changes}, Options{})
		f.put(t, "a", "1")
		f.put(t, "a", "2")
		f.put(t, "a", "3") // 4
		if _, err := f.Compact(soon(t), 4); err != nil {
			t.Fatal(err)
		}
		f.put(t, "a", "4")
		w := f.rawWatch(t)
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), PrevKv: true, StartRevision: 4})
		var got []string
		for len(got) < 2 {
			resp := w.next()
			if resp.Canceled {
				t.Fatalf("%d changes in memory: %v", changes, resp)
			}
			for _, e := range resp.Events {
				got = append(got, textOf(e))
			}
		}
		if list, want := strings.Join(got, ", "), "PUT a 4, PUT a 5 was 3"; list != want {
			t.Errorf("%d changes in memory: got %q, want %q", changes, list, want)
		}
	}
}

func TestWatchIDs(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	w := f.rawWatch(t)
	create := func(id int64, key string) *pb.WatchResponse {
		return w.create(&pb.WatchCreateRequest{Key: []byte(key), WatchId: id})
	}
	for _, tt := range []struct{ ask, want int64 }{{0, 0}, {2, 2}, {0, 1}, {0, 3}, {77, 77}} {
		if resp := create(tt.ask, "a"); resp.WatchId != tt.want || resp.Canceled {
			t.Errorf("asked for %d, got %v", tt.ask, resp)
		}
	}
	if resp := create(77, "b"); !resp.Canceled || resp.WatchId != clientv3.InvalidWatchID || resp.CancelReason != duplicateID {
		t.Errorf("duplicate: %v", resp)
	}
	for _, id := range []int64{0, 1, 2, 3} {
		w.cancel(id)
		if resp := w.next(); !resp.Canceled || resp.WatchId != id || resp.CompactRevision != 0 || resp.CancelReason != "" {
			t.Errorf("cancel: %v", resp)
		}
	}
	w.cancel(1234) // not answered
	f.put(t, "a", "1")
	w.want(77, "PUT a")
	w.cancel(77)
	w.next()
	if resp := create(77, "b"); resp.Canceled {
		t.Errorf("an ID that is free again: %v", resp)
	}
	if n := f.store.Watchers(); n != 1 {
		t.Errorf("%d watchers", n)
	}

	for _, tt := range []struct {
		r      *pb.WatchCreateRequest
		reason string
	}{
		{&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")}, emptyRange},
		{&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("b")}, emptyRange},
		{&pb.WatchCreateRequest{Key: []byte("b"), StartRevision: -1}, rpctypes.ErrCompacted.Error()},
	} {
		if resp := w.create(tt.r); !resp.Canceled || resp.CancelReason != tt.reason {
			t.Errorf("%v: %v", tt.r, resp)
		}
	}
}

func TestWatchKeysAndFilters(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	f.put(t, "a", "0")
	w := f.rawWatch(t)
	noPut, noDelete := pb.WatchCreateRequest_NOPUT, pb.WatchCreateRequest_NODELETE
	requests := map[int64]*pb.WatchCreateRequest{
		1: {Key: []byte("a")},
		2: {RangeEnd: []byte("\x00")}, // everything
		3: {Key: []byte("b"), RangeEnd: []byte("\x00"), PrevKv: true},
		4: {Key: []byte("a"), RangeEnd: []byte("b"), Filters: []pb.WatchCreateRequest_FilterType{noPut}, PrevKv: true},
		5: {Key: []byte("a"), Filters: []pb.WatchCreateRequest_FilterType{noDelete}},
		6: {Key: []byte("a"), Filters: []pb.WatchCreateRequest_FilterType{noDelete, noPut}},
		7: {}, // the empty key, which nothing is
	}
	for id, r := range requests {
		r.WatchId = id
		w.create(r)
	}
	if _, err := f.Txn(soon(t)).Then(clientv3.OpPut("a", "1"), clientv3.OpPut("b", "1")).Commit(); err != nil { // 3
		t.Fatal(err)
	}
	f.del(t, "a")      // 4
	f.put(t, "b", "2") // 5
	f.put(t, "z", "")  // 6
	want := map[int64]string{
		1: "PUT a 3, DELETE a 4",
		2: "PUT a 3, PUT b 3, DELETE a 4, PUT b 5, PUT z 6",
		3: "PUT b 3, PUT b 5 was 1, PUT z 6",
		4: "DELETE a 4 was 1",
		5: "PUT a 3",
	}
	got, missing := map[int64][]string{}, 0
	for _, list := range want {
		missing += strings.Count(list, ",") + 1
	}
	for missing > 0 {
		resp := w.next()
		for _, e := range resp.Events {
			got[resp.WatchId] = append(got[resp.WatchId], textOf(e))
			missing--
		}
	}
	for id := range requests {
		if list := strings.Join(got[id], ", "); list != want[id] {
			t.Errorf("watch %d got %q, want %q", id, list, want[id])
		}
	}
}

// textOf is an event as "PUT key revision", and what was before.
func textOf(e *mvccpb.Event) string {
	text := fmt.Sprintf("%v %s %d", e.Type, e.Kv.Key, e.Kv.ModRevision)
	if e.PrevKv != nil {
		text += " was " + string(e.PrevKv.Value)
	}
	return text
}

// A revision is one response, and only clients that say so get it in parts.
func TestWatchFragments(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	value := strings.Repeat("x", 1<<20)
	for i := range 4 {
		f.put(t, fmt.Sprint("a", i), value)
	}
	f.del(t, "none")
	if _, err := f.Delete(soon(t), "a", clientv3.WithPrefix()); err != nil { // 6: 4 MiB with what was before
		t.Fatal(err)
	}
	for _, fragment := range []bool{false, true} {
		w := f.rawWatchOf(t, 16<<20)
		w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("b"), StartRevision: 2, PrevKv: true, Fragment: fragment})
		for revision := int64(2); revision < 6; revision++ { // a response is long enough with one of them
			if resp := w.next(); len(resp.Events) != 1 || resp.Header.Revision != revision || resp.Fragment {
				t.Errorf("%d events, revision %d, fragment %v; want revision %d", len(resp.Events), resp.Header.Revision, resp.Fragment, revision)
			}
		}
		var fragments []bool
		for n := 0; n < 4; {
			resp := w.next()
			n += len(resp.Events)
			fragments = append(fragments, resp.Fragment)
			if resp.Header.Revision != 6 {
				t.Errorf("revision %d", resp.Header.Revision)
			}
		}
		want := []bool{false}
		if fragment {
			want = []bool{true, true, true, false}
		}
		if !slices.Equal(fragments, want) {
			t.Errorf("fragments %v, want %v", fragments, want)
		}
	}
	// etcd's client puts them together.
	resp := <-f.Watch(soon(t), "a", clientv3.WithPrefix(), clientv3.WithRev(6), clientv3.WithPrevKV(), clientv3.WithFragment())
	if len(resp.Events) != 4 {
		t.Errorf("got %d events, %v", len(resp.Events), resp.Err())
	}
}

func TestWatchProgressAsked(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{HistoryChanges: 5}, Options{})
	f.fill(t, "a", 3000, "value") // takes several turns
	w := f.rawWatch(t)
	w.askProgress() // of no watch: not answered, as in etcd
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("b"), StartRevision: 2})
	w.request(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("x")}}})
	w.askProgress()
	last := int64(0)
	for {
		resp := w.next()
		if resp.Created {
			continue
		}
		if resp.WatchId == clientv3.InvalidWatchID {
			if last != 3001 || resp.Header.Revision != 3001 {
				t.Errorf("progress %d after the event of %d", resp.Header.Revision, last)
			}
			break
		}
		last = resp.Events[len(resp.Events)-1].Kv.ModRevision
		if resp.Header.Revision > 3001 {
			t.Errorf("revision %d", resp.Header.Revision)
		}
	}
	f.put(t, "other", "")
	w.askProgress()
	if resp := w.want(clientv3.InvalidWatchID); resp.Header.Revision != 3002 {
		t.Errorf("got %v", resp)
	}
	c := f.Watch(soon(t), "a")
	if err := f.RequestProgress(soon(t)); err != nil {
		t.Fatal(err)
	}
	if resp := <-c; !resp.IsProgressNotify() {
		t.Errorf("etcd's client: %v", resp)
	}
}

func TestWatchProgressNotify(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{ProgressInterval: 50 * time.Millisecond})
	n := f.server.service.progress
	armed := func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.armed
	}
	f.put(t, "b", "1")
	if armed() {
		t.Error("a timer runs although nobody wants to know")
	}
	w := f.rawWatch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true, WatchId: 1})
	w.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 2})
	if armed() {
		t.Error("a timer runs although nothing has changed")
	}
	f.put(t, "b", "2") // 3
	if !armed() {
		t.Error("no timer runs")
	}
	if resp := w.want(1); resp.Header.Revision != 3 {
		t.Errorf("got %v", resp)
	}
	if armed() {
		t.Error("the timer goes on")
	}
	// What is told by an event is not told again.
	f.put(t, "a", "1") // 4
	for range 2 {
		w.next()
	}
	f.put(t, "b", "1") // 5
	if resp := w.want(1); resp.Header.Revision != 5 {
		t.Errorf("got %v", resp)
	}
	// History without events for it is news, too.
	w.create(&pb.WatchCreateRequest{Key: []byte("x"), StartRevision: 2, ProgressNotify: true, WatchId: 3})
	if resp := w.want(3); resp.Header.Revision != 5 {
		t.Errorf("got %v", resp)
	}
	// A client that asks for nothing more still hears.
	if err := w.CloseSend(); err != nil {
		t.Fatal(err)
	}
	f.put(t, "b", "1") // 6
	for range 2 {
		if resp := w.next(); resp.Header.Revision != 6 {
			t.Errorf("got %v", resp)
		}
	}
}
