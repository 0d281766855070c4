// Package enginetest has what the tests of package engine and of the store
// above it share: a generator of requests, and a model that answers them.
//
// The model is etcd's rules in the plainest form: a list of all versions that
// every key has ever had, searched from the front. It shares nothing with the
// engine but the messages of the API. That the model itself is right is shown
// by this package's test, which gives the same requests to etcd's own code.
package enginetest

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Event is a change of a key.
type Event struct {
	Sub  int
	KV   *mvccpb.KeyValue // of version 0 if the key was deleted
	Prev *mvccpb.KeyValue // nil if the key did not exist
}

// Model is a store as of a revision, with all its past.
type Model struct {
	Revision, Compacted int64
	Events              []Event
	Leases              map[int64]bool

	sub int // changes of the request that is being applied
}

// NewModel is an empty store.
func NewModel() *Model { return &Model{Revision: 1, Leases: map[int64]bool{}} }

// Clone is a model that can go its own way.
func (m *Model) Clone() *Model {
	return &Model{Revision: m.Revision, Compacted: m.Compacted, Events: slices.Clone(m.Events), Leases: maps.Clone(m.Leases)}
}

// At returns all keys as of a revision, by key.
func (m *Model) At(revision int64) []*mvccpb.KeyValue {
	all := map[string]*mvccpb.KeyValue{}
	for _, e := range m.Events {
		switch {
		case e.KV.ModRevision > revision:
		case e.KV.Version == 0:
			delete(all, string(e.KV.Key))
		default:
			all[string(e.KV.Key)] = e.KV
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
}

// now is the revision that the request that is being applied sees.
func (m *Model) now() int64 {
	if m.sub > 0 {
		return m.Revision + 1
	}
	return m.Revision
}

func (m *Model) within(key, end []byte, revision int64) (found []*mvccpb.KeyValue) {
	for _, kv := range m.At(revision) {
		if Contains(key, end, kv.Key) {
			found = append(found, kv)
		}
	}
	return found
}

// Contains is what a request means by a key and a range's end.
func Contains(key, end, k []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(k, key)
	case bytes.Equal(end, []byte{0}):
		return bytes.Compare(k, key) >= 0
	}
	return bytes.Compare(k, key) >= 0 && bytes.Compare(k, end) < 0
}

// apply runs a request, and undoes it if it fails.
func (m *Model) apply(request func() error) error {
	before := m.Clone()
	if err := request(); err != nil {
		*m = *before
		return err
	}
	m.Revision, m.sub = m.now(), 0
	return nil
}

func (m *Model) change(kv *mvccpb.KeyValue, prev *mvccpb.KeyValue) {
	m.Events = append(m.Events, Event{Sub: m.sub, KV: kv, Prev: prev})
	m.sub++
}

// Range answers a Range request.
func (m *Model) Range(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := checkOp(opRange(r), MaxOps); err != nil {
		return nil, err
	}
	if err := m.readable(r); err != nil {
		return nil, err
	}
	return m.rangeAt(r), nil
}

func (m *Model) readable(r *pb.RangeRequest) error {
	switch {
	case r.Revision <= 0:
		return nil
	case r.Revision > m.Revision:
		return rpctypes.ErrGRPCFutureRev
	case r.Revision < m.Compacted:
		return rpctypes.ErrGRPCCompacted
	}
	return nil
}

func (m *Model) rangeAt(r *pb.RangeRequest) *pb.RangeResponse {
	revision := m.now()
	if r.Revision > 0 {
		revision = r.Revision
	}
	kvs := m.within(r.Key, r.RangeEnd, revision)
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: m.now()}, Count: int64(len(kvs))}
	if r.CountOnly {
		return resp
	}
	kvs = slices.DeleteFunc(kvs, func(kv *mvccpb.KeyValue) bool {
		return r.MinModRevision != 0 && kv.ModRevision < r.MinModRevision ||
			r.MaxModRevision != 0 && kv.ModRevision > r.MaxModRevision ||
			r.MinCreateRevision != 0 && kv.CreateRevision < r.MinCreateRevision ||
			r.MaxCreateRevision != 0 && kv.CreateRevision > r.MaxCreateRevision
	})
	slices.SortStableFunc(kvs, func(a, b *mvccpb.KeyValue) int {
		if r.SortOrder == pb.RangeRequest_DESCEND {
			a, b = b, a
		}
		switch r.SortTarget {
		case pb.RangeRequest_VERSION:
			return cmp.Compare(a.Version, b.Version)
		case pb.RangeRequest_CREATE:
			return cmp.Compare(a.CreateRevision, b.CreateRevision)
		case pb.RangeRequest_MOD:
			return cmp.Compare(a.ModRevision, b.ModRevision)
		case pb.RangeRequest_VALUE:
			return bytes.Compare(a.Value, b.Value)
		}
		return bytes.Compare(a.Key, b.Key)
	})
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, resp.More = kvs[:r.Limit], true
	}
	for _, kv := range kvs {
		out := copyKV(kv)
		if r.KeysOnly {
			out.Value = nil
		}
		resp.Kvs = append(resp.Kvs, out)
	}
	return resp
}

// Put applies a put.
func (m *Model) Put(r *pb.PutRequest) (resp *pb.PutResponse, err error) {
	if err := checkOp(opPut(r), MaxOps); err != nil {
		return nil, err
	}
	err = m.apply(func() error {
		if err := m.possible(r); err != nil {
			return err
		}
		resp = m.put(r)
		return nil
	})
	return resp, err
}

func (m *Model) get(key []byte) *mvccpb.KeyValue {
	if found := m.within(key, nil, m.now()); len(found) == 1 {
		return found[0]
	}
	return nil
}

func (m *Model) possible(r *pb.PutRequest) error {
	switch {
	case r.Lease != 0 && !m.Leases[r.Lease]:
		return rpctypes.ErrGRPCLeaseNotFound
	case (r.IgnoreValue || r.IgnoreLease) && m.get(r.Key) == nil:
		return rpctypes.ErrGRPCKeyNotFound
	}
	return nil
}

func (m *Model) put(r *pb.PutRequest) *pb.PutResponse {
	prev, revision := m.get(r.Key), m.Revision+1
	kv := &mvccpb.KeyValue{Key: r.Key, Value: r.Value, Lease: r.Lease, ModRevision: revision, CreateRevision: revision, Version: 1}
	if prev != nil {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
	}
	if r.IgnoreValue {
		kv.Value = prev.Value
	}
	if r.IgnoreLease {
		kv.Lease = prev.Lease
	}
	m.change(kv, prev)
	resp := &pb.PutResponse{Header: &pb.ResponseHeader{Revision: revision}}
	if r.PrevKv && prev != nil {
		resp.PrevKv = copyKV(prev)
	}
	return resp
}

// DeleteRange applies a deletion.
func (m *Model) DeleteRange(r *pb.DeleteRangeRequest) (resp *pb.DeleteRangeResponse, err error) {
	if err := checkOp(opDelete(r), MaxOps); err != nil {
		return nil, err
	}
	err = m.apply(func() error {
		resp = m.deleteRange(r)
		return nil
	})
	return resp, err
}

func (m *Model) deleteRange(r *pb.DeleteRangeRequest) *pb.DeleteRangeResponse {
	resp := &pb.DeleteRangeResponse{}
	for _, kv := range m.within(r.Key, r.RangeEnd, m.now()) {
		resp.Deleted++
		if r.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, copyKV(kv))
		}
		m.change(&mvccpb.KeyValue{Key: kv.Key, ModRevision: m.Revision + 1}, kv)
	}
	resp.Header = &pb.ResponseHeader{Revision: m.now()}
	return resp
}

// Grant adds a lease.
func (m *Model) Grant(id int64) error {
	if m.Leases[id] {
		return rpctypes.ErrGRPCLeaseExist
	}
	m.Leases[id] = true
	return nil
}

// Attached returns the keys of a lease.
func (m *Model) Attached(id int64) (keys []string) {
	for _, kv := range m.At(m.now()) {
		if kv.Lease == id {
			keys = append(keys, string(kv.Key))
		}
	}
	return keys
}

// Revoke removes a lease and its keys.
func (m *Model) Revoke(id int64) error {
	if !m.Leases[id] {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	return m.apply(func() error {
		for _, key := range m.Attached(id) {
			m.deleteRange(&pb.DeleteRangeRequest{Key: []byte(key)})
		}
		delete(m.Leases, id)
		return nil
	})
}

// Compact forgets what was before a revision.
func (m *Model) Compact(revision int64) error {
	switch {
	case revision > m.Revision:
		return rpctypes.ErrGRPCFutureRev
	case revision <= m.Compacted:
		return rpctypes.ErrGRPCCompacted
	}
	m.Compacted = revision
	return nil
}

func copyKV(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision,
		ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
	}
}
