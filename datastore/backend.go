package datastore

import (
	"bytes"
	"context"

	kine "github.com/k3s-io/kine/pkg/server"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/limpetio/limpet/datastore/engine"
)

// Backend is the store as kine's gRPC server wants it.
type Backend struct{ *Store }

var _ kine.Backend = Backend{}

// Start does nothing: an open store is running.
func (Backend) Start(context.Context) error { return nil }

// Get returns a key as of a revision; nil if it did not exist.
func (b Backend) Get(ctx context.Context, key string, revision int64, keysOnly bool) (int64, *kine.KeyValue, error) {
	resp, err := b.Range(ctx, &pb.RangeRequest{Key: []byte(key), Revision: revision, KeysOnly: keysOnly})
	if err != nil {
		return b.State().Revision, nil, err
	}
	if len(resp.Kvs) == 0 {
		return resp.Header.Revision, nil, nil
	}
	return resp.Header.Revision, kineKV(resp.Kvs[0]), nil
}

// Create makes a key that must not exist.
func (b Backend) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	resp, err := b.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{modEquals(key, 0)},
		Success: []*pb.RequestOp{putOp(key, value, lease)},
	})
	if err != nil {
		return b.State().Revision, err
	}
	if !resp.Succeeded {
		return resp.Header.Revision, kine.ErrKeyExists
	}
	return resp.Header.Revision, nil
}

// Update changes a key that is at a revision; else it returns what the key is.
func (b Backend) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *kine.KeyValue, bool, error) {
	return b.changeIf(ctx, key, revision, putOp(key, value, lease))
}

// Delete deletes a key that is at a revision, or at any if revision is 0. A key
// that does not exist has been deleted.
func (b Backend) Delete(ctx context.Context, key string, revision int64) (int64, *kine.KeyValue, bool, error) {
	remove := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), PrevKv: true},
	}}
	if revision != 0 {
		rev, kv, ok, err := b.changeIf(ctx, key, revision, remove)
		return rev, kv, ok || err == nil && kv == nil, err
	}
	resp, err := b.DeleteRange(ctx, remove.GetRequestDeleteRange())
	if err != nil {
		return b.State().Revision, nil, false, err
	}
	return resp.Header.Revision, firstKV(resp.PrevKvs), true, nil
}

// changeIf applies an operation to a key that is at a revision; else it returns
// what the key is.
func (b Backend) changeIf(ctx context.Context, key string, revision int64, op *pb.RequestOp) (int64, *kine.KeyValue, bool, error) {
	request := &pb.TxnRequest{
		Compare: []*pb.Compare{modEquals(key, revision)},
		Success: []*pb.RequestOp{op},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}},
	}
	put := op.GetRequestPut()
	if put != nil { // what the key is then, without the value: that is known
		request.Success = append(request.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
			RequestRange: &pb.RangeRequest{Key: []byte(key), KeysOnly: true},
		}})
	}
	resp, err := b.Txn(ctx, request)
	if err != nil {
		return b.State().Revision, nil, false, err
	}
	rev := resp.Header.Revision
	if !resp.Succeeded {
		return rev, firstKV(resp.Responses[0].GetResponseRange().Kvs), false, nil
	}
	if put != nil {
		kv := firstKV(resp.Responses[1].GetResponseRange().Kvs)
		kv.Value = put.Value
		return rev, kv, true, nil
	}
	return rev, firstKV(resp.Responses[0].GetResponseDeleteRange().PrevKvs), true, nil
}

// List returns the keys of an interval; limit 0 is none.
func (b Backend) List(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) (int64, []*kine.KeyValue, error) {
	resp, err := b.Range(ctx, listOf(key, end, limit, revision, keysOnly))
	if err != nil {
		return b.State().Revision, nil, err
	}
	kvs := make([]*kine.KeyValue, len(resp.Kvs))
	for i, kv := range resp.Kvs {
		kvs[i] = kineKV(kv)
	}
	return resp.Header.Revision, kvs, nil
}

// streamPage is how many keys of a stream are in memory at once.
const streamPage = 500

// ListStream lists page by page: all of it as of the first page's revision.
func (b Backend) ListStream(ctx context.Context, key, end string, limit, revision int64, keysOnly bool) kine.ListResult {
	kvs, errs := make(chan *kine.KeyValue), make(chan error, 1)
	if revision <= 0 {
		revision = b.State().Revision
	}
	go func() {
		defer close(errs)
		defer close(kvs)
		request := listOf(key, end, streamPage, revision, keysOnly)
		for sent := int64(0); ; {
			if limit > 0 {
				request.Limit = min(streamPage, limit-sent)
			}
			resp, err := b.Range(ctx, request)
			if err != nil {
				errs <- err
				return
			}
			for _, kv := range resp.Kvs {
				select {
				case kvs <- kineKV(kv):
				case <-ctx.Done():
					errs <- ctx.Err()
					return
				}
			}
			sent += int64(len(resp.Kvs))
			if !resp.More || limit > 0 && sent >= limit {
				return
			}
			request.Key = after(resp.Kvs[len(resp.Kvs)-1].Key)
		}
	}()
	return kine.ListResult{CurrentRevision: b.State().Revision, KVc: kvs, Errorc: errs}
}

// Count returns the revision, and the number of keys in an interval.
func (b Backend) Count(ctx context.Context, key, end string, revision int64) (int64, int64, error) {
	request := listOf(key, end, 0, revision, true)
	request.CountOnly = true
	resp, err := b.Range(ctx, request)
	if err != nil {
		return b.State().Revision, 0, err
	}
	return resp.Header.Revision, resp.Count, nil
}

// DbSize is the size of the database file in bytes.
func (b Backend) DbSize(context.Context) (int64, error) { return b.log.Stats().FileBytes, nil }

// CurrentRevision is the revision of the last change.
func (b Backend) CurrentRevision(context.Context) (int64, error) { return b.State().Revision, nil }

// Watch follows all keys. It keeps kine's contract: the first batch, which may
// be empty, tells the current revision.
func (b Backend) Watch(ctx context.Context, revision int64) kine.WatchResult {
	events, errs := make(chan kine.EventBatch, 1), make(chan error, 1)
	wake := make(chan struct{}, 1)
	wake <- struct{}{}
	w, current := b.Store.Watch(engine.Interval{Key: "\x00", End: "\x00"}, revision, func() {
		select {
		case wake <- struct{}{}:
		default:
		}
	})
	result := kine.WatchResult{CurrentRevision: current, Eventc: events, Errorc: errs}
	if compacted := b.State().Compacted; revision > 0 && revision < compacted {
		w.Close()
		result.CompactRevision = compacted
		return result
	}
	go func() {
		defer close(events)
		defer w.Close()
		if err := b.follow(ctx, w, wake, events); err != nil && ctx.Err() == nil {
			errs <- err
		}
	}()
	return result
}

func (b Backend) follow(ctx context.Context, w *Watcher, wake <-chan struct{}, events chan<- kine.EventBatch) error {
	for {
		select {
		case <-wake:
		case <-ctx.Done():
			return nil
		}
		for more := true; more; {
			batch, err := w.Take(ctx)
			if err != nil {
				return err
			}
			out, err := b.events(ctx, batch)
			if err != nil {
				return err
			}
			select {
			case events <- out:
			case <-ctx.Done():
				return nil
			}
			more = batch.More
		}
	}
}

func (b Backend) events(ctx context.Context, batch Batch) (kine.EventBatch, error) {
	out := kine.EventBatch{CurrentRev: batch.Revision, Events: make([]*kine.Event, len(batch.Changes))}
	for i, c := range batch.Changes {
		versions := []*engine.Version{c.Cur}
		if c.Prev != nil {
			versions = append(versions, c.Prev)
		}
		values, err := b.Values(ctx, versions)
		if err != nil {
			return out, err
		}
		e := &kine.Event{Delete: c.Cur.Tombstone(), Create: c.Prev == nil, KV: kineKV(c.Cur.KV(values[0]))}
		if c.Prev != nil {
			e.PrevKV = kineKV(c.Prev.KV(values[1]))
		}
		out.Events[i] = e
	}
	return out, nil
}

// Compact forgets history; kine wants to hear of the current revision.
func (b Backend) Compact(ctx context.Context, revision int64) (int64, error) {
	return b.Store.Compact(ctx, revision)
}

// after is the key that follows another one.
func after(key []byte) []byte { return append(bytes.Clone(key), 0) }

func listOf(key, end string, limit, revision int64, keysOnly bool) *pb.RangeRequest {
	if key == "" {
		key = "\x00" // kine's way to say all keys
	}
	if end == "" {
		end = "\x00"
	}
	return &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end), Limit: limit, Revision: revision, KeysOnly: keysOnly}
}

func modEquals(key string, revision int64) *pb.Compare {
	return &pb.Compare{Key: []byte(key), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: revision}}
}

func putOp(key string, value []byte, lease int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: value, Lease: lease}}}
}

func firstKV(kvs []*mvccpb.KeyValue) *kine.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	return kineKV(kvs[0])
}

func kineKV(kv *mvccpb.KeyValue) *kine.KeyValue {
	return &kine.KeyValue{
		Key: string(kv.Key), Value: kv.Value, Version: kv.Version,
		CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Lease: kv.Lease,
	}
}
