package enginetest

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"google.golang.org/protobuf/proto"
)

// TestModelAnswersAsEtcd gives the same requests to the model and to an etcd
// server. With the tests of package engine, which compare engine and model, it
// shows that the engine answers as etcd.
//
// Where the model differs on purpose the requests are changed or left out: see
// comparable.
func TestModelAnswersAsEtcd(t *testing.T) {
	t.Parallel()
	e := startEtcd(t)
	model := NewModel()
	end := time.Now().Add(2 * time.Second)
	for seed := uint64(0); time.Now().Before(end) && !t.Failed(); seed++ {
		r := rand.New(rand.NewPCG(seed, 2))
		data := make([]byte, 600)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		g := Generator{Source: NewSource(data)}
		for !g.Done() && !t.Failed() {
			g.Revision = model.Revision
			if r := g.Next(); comparable(r) {
				e.compare(t, model, r)
			}
		}
		if model.Revision > model.Compacted+200 { // the model becomes slow
			model.prune(model.Revision - 20)
			e.compare(t, model, Request{Kind: Compact, Number: model.Revision - 20})
		}
	}
	t.Logf("revision %d", model.Revision)
}

// prune forgets events that a model compacted at a revision does not need.
func (m *Model) prune(revision int64) {
	var kept []Event
	for _, kv := range m.At(revision) {
		kept = append(kept, Event{KV: kv})
	}
	for _, e := range m.Events {
		if e.KV.ModRevision > revision {
			kept = append(kept, e)
		}
	}
	m.Events = kept
}

// etcd is a server, called without a network.
type etcd struct {
	kv    pb.KVServer
	lease pb.LeaseServer
}

func startEtcd(t *testing.T) etcd {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(t.TempDir(), "etcd")
	cfg.LogLevel = "fatal"
	cfg.UnsafeNoFsync = true
	local := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = local, local
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = local, local
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	select {
	case <-server.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		t.Fatal("etcd does not become ready")
	}
	return etcd{v3rpc.NewKVServer(server.Server), v3rpc.NewLeaseServer(server.Server)}
}

// comparable adapts a request to what is meant to be the same. It reports false
// if nothing is left of it.
func comparable(r Request) bool {
	if r.Range != nil {
		comparableRange(r.Range)
	}
	if r.Txn == nil {
		return r.Kind != Compact || r.Number > 0 // etcd can be compacted at 0, once
	}
	err := CheckTxn(r.Txn)
	nested, toTheEnd := comparableOps(r.Txn)
	// etcd overlooks a put and a delete of the same key in two transactions that
	// are side by side within a third, and a put among a delete to the end of
	// all keys.
	return !errors.Is(err, rpctypes.ErrGRPCDuplicateKey) || !nested && !toTheEnd
}

func comparableOps(r *pb.TxnRequest) (nested, toTheEnd bool) {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			switch r := op.Request.(type) {
			case *pb.RequestOp_RequestRange:
				comparableRange(r.RequestRange)
			case *pb.RequestOp_RequestDeleteRange:
				toTheEnd = toTheEnd || string(r.RequestDeleteRange.RangeEnd) == "\x00"
			case *pb.RequestOp_RequestTxn:
				_, end := comparableOps(r.RequestTxn)
				nested, toTheEnd = true, toTheEnd || end
			}
		}
	}
	return nested, toTheEnd
}

// comparableRange asks for an order: without one, etcd first cuts off what is
// beyond the limit by the order of keys, and then sorts.
func comparableRange(r *pb.RangeRequest) {
	if r.SortOrder == pb.RangeRequest_NONE && r.SortTarget != pb.RangeRequest_KEY {
		r.SortOrder = pb.RangeRequest_ASCEND
	}
}

func (e etcd) compare(t *testing.T, m *Model, r Request) {
	t.Helper()
	ctx := context.Background()
	var got, want proto.Message
	var err, wantErr error
	switch r.Kind {
	case Put:
		want, wantErr = e.kv.Put(ctx, r.Put)
		got, err = m.Put(r.Put)
	case Range:
		want, wantErr = e.kv.Range(ctx, r.Range)
		got, err = m.Range(r.Range)
	case DeleteRange:
		want, wantErr = e.kv.DeleteRange(ctx, r.DeleteRange)
		got, err = m.DeleteRange(r.DeleteRange)
	case Txn:
		want, wantErr = e.kv.Txn(ctx, r.Txn)
		got, err = m.Txn(r.Txn)
	case Grant:
		_, wantErr = e.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: r.Number, TTL: 3600})
		err = m.Grant(r.Number)
	case Revoke:
		_, wantErr = e.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: r.Number})
		err = m.Revoke(r.Number)
	case Compact:
		_, wantErr = e.kv.Compact(ctx, &pb.CompactionRequest{Revision: r.Number})
		err = m.Compact(r.Number)
	}
	if err != nil || wantErr != nil {
		if !errors.Is(err, wantErr) {
			t.Errorf("%v:\nmodel: %v\netcd:  %v", r, err, wantErr)
		}
		return
	}
	if want == nil {
		return
	}
	plain(got)
	plain(want)
	if !proto.Equal(got, want) {
		t.Errorf("%v:\nmodel: %v\netcd:  %v", r, got, want)
	}
}

// plain removes what is not compared: the names of the cluster; the revision in
// the header of a transaction within another one, which etcd leaves empty; and
// leases in answers without values, which etcd 3.7 leaves out and 3.6 does not.
func plain(m proto.Message) {
	header := func(h *pb.ResponseHeader) { h.ClusterId, h.MemberId, h.RaftTerm = 0, 0, 0 }
	switch r := m.(type) {
	case *pb.PutResponse:
		header(r.Header)
	case *pb.DeleteRangeResponse:
		header(r.Header)
	case *pb.RangeResponse:
		header(r.Header)
		for _, kv := range r.Kvs {
			withoutLease(kv)
		}
	case *pb.TxnResponse:
		header(r.Header)
		for _, op := range r.Responses {
			switch o := op.Response.(type) {
			case *pb.ResponseOp_ResponseRange:
				plain(o.ResponseRange)
			case *pb.ResponseOp_ResponsePut:
				plain(o.ResponsePut)
			case *pb.ResponseOp_ResponseDeleteRange:
				plain(o.ResponseDeleteRange)
			case *pb.ResponseOp_ResponseTxn:
				plain(o.ResponseTxn)
				o.ResponseTxn.Header.Revision = 0
			}
		}
	}
}

func withoutLease(kv *mvccpb.KeyValue) {
	if len(kv.Value) == 0 {
		kv.Lease = 0
	}
}
