package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// memory is a Reader for tests in which all values are in memory.
type memory struct{}

func (memory) Values(versions []*Version) ([][]byte, error) {
	values := make([][]byte, len(versions))
	for i, v := range versions {
		value, ok := v.Value()
		if !ok {
			return nil, errors.New("a value is not in memory")
		}
		values[i] = value
	}
	return values, nil
}

func (memory) Record(int64) (*Version, error) { return nil, errors.New("there is no log") }

func put(key, value string) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
}

func mustPut(t *testing.T, p *Pending, key, value string) {
	t.Helper()
	if _, err := p.Put(put(key, value)); err != nil {
		t.Fatal(err)
	}
}

func TestIntervals(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in      Interval
		yes, no []string
	}{
		{Interval{"b", ""}, []string{"b"}, []string{"a", "b\x00", "ba", "c"}},
		{Interval{"b", "d"}, []string{"b", "b\x00", "c", "czz"}, []string{"a", "az", "d", "e"}},
		{Interval{"b", "\x00"}, []string{"b", "c", "\xff\xff"}, []string{"a", "\x00"}},
		{Interval{"\x00", "\x00"}, []string{"\x00", "a", "\xff"}, nil},
		{Interval{"b", "b"}, nil, []string{"a", "b", "c"}},
		{Interval{"c", "b"}, nil, []string{"a", "b", "b0", "c", "d"}},
	} {
		for _, key := range tt.yes {
			if !tt.in.Contains(key) {
				t.Errorf("%q does not contain %q", tt.in, key)
			}
		}
		for _, key := range tt.no {
			if tt.in.Contains(key) {
				t.Errorf("%q contains %q", tt.in, key)
			}
		}
	}
}

// Counting by order statistics must give what counting gives.
func TestCount(t *testing.T) {
	t.Parallel()
	p := New().Begin(memory{})
	r := rand.New(rand.NewPCG(1, 1))
	name := func() string { return fmt.Sprintf("%03d", r.IntN(1000)) }
	keys := map[string]bool{}
	for range 3000 {
		key := name()
		if r.IntN(3) > 0 {
			mustPut(t, p, key, "")
			keys[key] = true
			continue
		}
		if _, err := p.DeleteRange(&pb.DeleteRangeRequest{Key: []byte(key)}); err != nil {
			t.Fatal(err)
		}
		delete(keys, key)
	}
	s := p.State()
	ends := []string{"", "\x00", "000", "999", "0005"}
	for range 500 {
		in := Interval{name(), ends[r.IntN(len(ends))]}
		if r.IntN(2) > 0 {
			in.End = name()
		}
		want := 0
		for key := range keys {
			if in.Contains(key) {
				want++
			}
		}
		if got := s.count(in); got != want {
			t.Fatalf("%q: %d, want %d", in, got, want)
		}
		resp, err := s.Range(&pb.RangeRequest{Key: []byte(in.Key), RangeEnd: []byte(in.End), Limit: 3}, memory{})
		if err != nil || resp.Count != int64(want) || resp.More != (want > 3) || len(resp.Kvs) != min(want, 3) {
			t.Fatalf("%q: %v %v, want %d", in, resp, err, want)
		}
	}
}

// Requests share a commit: what an earlier one wrote is history for a later one
// before it is in the log.
func TestHistoryWithinACommit(t *testing.T) {
	t.Parallel()
	p := New().Begin(memory{})
	mustPut(t, p, "a", "first") // revision 2
	mustPut(t, p, "a", "second")
	mustPut(t, p, "a", "third")
	resp, err := p.Txn(&pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("a"), Revision: 2}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if kvs := resp.Responses[0].GetResponseRange().Kvs; len(kvs) != 1 || string(kvs[0].Value) != "first" {
		t.Errorf("at revision 2: %v", kvs)
	}
}

// A request that fails in the middle leaves nothing behind.
func TestFailureUndoes(t *testing.T) {
	t.Parallel()
	base := New().Begin(memory{})
	mustPut(t, base, "a", "1")
	mustPut(t, base, "b", "2")
	s := base.State()
	v := s.Get("b")
	v.value.Store(nil) // not to be had: there is no log

	p := s.Begin(memory{})
	mustPut(t, p, "z", "")
	before := len(p.Changes())
	_, err := p.Txn(&pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestPut{RequestPut: put("a", "new")}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: put("c", "new")}},
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("b"), PrevKv: true}}},
	}})
	if err == nil {
		t.Fatal("no error")
	}
	if p.State().Revision != s.Revision+1 || len(p.Changes()) != before || p.State().Get("c") != nil || p.State().Get("a") != s.Get("a") {
		t.Errorf("something of the transaction is left: %+v", p.Changes())
	}
	mustPut(t, p, "c", "after")
	if c := p.Changes()[before]; c.Cur.ID != ID(s.Revision+2, 0) || p.State().Get("c") != c.Cur {
		t.Errorf("the next change is %+v", c.Cur)
	}
}

func TestTooManyChanges(t *testing.T) {
	t.Parallel()
	p := New().Begin(memory{})
	for _, key := range []string{"a", "b", "c"} {
		mustPut(t, p, key, "")
	}
	all := &pb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	err := p.apply(func() error {
		p.sub = MaxChanges - 2
		if _, err := p.deleteRange(all); !errors.Is(err, ErrTooManyChanges) {
			return fmt.Errorf("three deletions where two are possible: %w", err)
		}
		if _, err := p.put(put("d", "")); err != nil {
			return err
		}
		if _, err := p.put(put("e", "")); err != nil {
			return err
		}
		_, err := p.put(put("f", ""))
		return err
	})
	if !errors.Is(err, ErrTooManyChanges) {
		t.Fatal(err)
	}
	if last := p.changes[len(p.changes)-1].Cur; last.ModRevision() != p.state.Revision+1 || last.ID >= ID(p.state.Revision+2, 0) {
		t.Errorf("the last change is %x", last.ID)
	}
}

func TestAttached(t *testing.T) {
	t.Parallel()
	p := New().Begin(memory{})
	for id := range int64(3) {
		if err := p.Grant(Lease{ID: id + 1, TTL: 9}); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"b", "a", "c"} {
		if _, err := p.Put(&pb.PutRequest{Key: []byte(key), Lease: 2}); err != nil {
			t.Fatal(err)
		}
	}
	before := p.State().copy()
	if err := p.Revoke(2); err != nil {
		t.Fatal(err)
	}
	if keys := before.Attached(2); !slices.Equal(keys, []string{"a", "b", "c"}) {
		t.Errorf("before: %q", keys)
	}
	if keys := p.State().Attached(2); keys != nil || p.State().Len() != 0 {
		t.Errorf("after: %q and %d keys", keys, p.State().Len())
	}
	revision := p.State().Revision
	if err := p.Revoke(1); err != nil || p.State().Revision != revision {
		t.Errorf("revoking a lease without keys: %v, revision %d, want %d", err, p.State().Revision, revision)
	}
}

// What copies of a state share is not written to: readers of one need no lock
// while others make the next.
func TestReadWhileWriting(t *testing.T) {
	t.Parallel()
	p := New().Begin(memory{})
	for i := range 500 {
		mustPut(t, p, fmt.Sprintf("%03d", i), "old")
	}
	s := p.State()
	done := make(chan error)
	for range 4 {
		go func() {
			for range 20 {
				resp, err := s.Range(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}, memory{})
				if err != nil || len(resp.Kvs) != 500 || slices.ContainsFunc(resp.Kvs, func(kv *mvccpb.KeyValue) bool { return string(kv.Value) != "old" }) {
					done <- fmt.Errorf("%d keys, %w", len(resp.GetKvs()), err)
					return
				}
			}
			done <- nil
		}()
	}
	for round := range 20 {
		next := s.Begin(memory{}) // and dropped
		for i := range 200 {
			mustPut(t, next, fmt.Sprintf("%03d", (i*7+round)%600), "new")
		}
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
