package engine

import (
	"cmp"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrTooManyChanges is for a request that would change more than MaxChanges keys.
var ErrTooManyChanges = status.Error(codes.InvalidArgument, "limpet: one request cannot change more than 1048575 keys")

// LeaseChange is a lease that was granted or revoked.
type LeaseChange struct {
	Lease
	Revoked bool
}

// Pending is a State in the making: requests are applied to it one after the
// other, each seeing what those before it did.
type Pending struct {
	state   State
	reader  Reader
	changes []Change
	leases  []LeaseChange
	sub     int // changes within the request that is being applied
}

// Begin starts the State that follows s.
func (s *State) Begin(reader Reader) *Pending {
	p := &Pending{state: s.copy()}
	p.reader = &overlay{reader, p}
	return p
}

// overlay finds the versions of a Pending, which are not in the log yet. Their
// values are in memory.
type overlay struct {
	Reader
	pending *Pending
}

// Record returns the version with an ID.
func (o *overlay) Record(id int64) (*Version, error) {
	at, ok := slices.BinarySearchFunc(o.pending.changes, id, func(c Change, id int64) int { return cmp.Compare(c.Cur.ID, id) })
	if ok {
		return o.pending.changes[at].Cur, nil
	}
	return o.Reader.Record(id)
}

// State is the State as of now. It changes with the next request.
func (p *Pending) State() *State { return &p.state }

// Changes are those of all requests so far, in the order of their revisions.
func (p *Pending) Changes() []Change { return p.changes }

// LeaseChanges are those of all requests so far.
func (p *Pending) LeaseChanges() []LeaseChange { return p.leases }

// Txn applies a transaction. When it fails, nothing of it has been applied.
func (p *Pending) Txn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := CheckTxn(r); err != nil {
		return nil, err
	}
	var resp *pb.TxnResponse
	request := func() (err error) {
		resp, err = p.txn(r)
		return err
	}
	if len(r.Success) <= 1 && len(r.Failure) <= 1 && !nested(r) {
		// A single operation fails before it changes anything.
		err := p.apply(request)
		return resp, err
	}
	before, changes := p.state.copy(), len(p.changes)
	err := p.apply(request)
	if err != nil {
		p.state, p.changes = before, p.changes[:changes]
	}
	return resp, err
}

func nested(r *pb.TxnRequest) bool {
	return slices.ContainsFunc(slices.Concat(r.Success, r.Failure), func(op *pb.RequestOp) bool { return op.GetRequestTxn() != nil })
}

// apply runs one request: everything that it changes has the same revision.
func (p *Pending) apply(request func() error) error {
	p.sub = 0
	if err := request(); err != nil {
		p.sub = 0
		return err
	}
	if p.sub > 0 {
		p.state.Revision++
	}
	return nil
}

// Put applies a put.
func (p *Pending) Put(r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	var resp *pb.PutResponse
	err := p.apply(func() (err error) {
		resp, err = p.put(r)
		return err
	})
	return resp, err
}

// DeleteRange applies a deletion.
func (p *Pending) DeleteRange(r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	var resp *pb.DeleteRangeResponse
	err := p.apply(func() (err error) {
		resp, err = p.deleteRange(r)
		return err
	})
	return resp, err
}

// Grant adds a lease. The ID is not 0.
func (p *Pending) Grant(l Lease) error {
	if _, ok := p.state.Lease(l.ID); ok {
		return rpctypes.ErrGRPCLeaseExist
	}
	p.state.leases.Set(l)
	p.leases = append(p.leases, LeaseChange{Lease: l})
	return nil
}

// Revoke removes a lease and deletes the keys that it holds, in one revision.
func (p *Pending) Revoke(id int64) error {
	l, ok := p.state.Lease(id)
	if !ok {
		return rpctypes.ErrGRPCLeaseNotFound
	}
	return p.apply(func() error {
		keys := p.state.Attached(id)
		if len(keys) > MaxChanges {
			return ErrTooManyChanges
		}
		for _, key := range keys {
			p.delete(p.state.Get(key))
		}
		p.state.leases.Delete(l)
		p.leases = append(p.leases, LeaseChange{Lease: l, Revoked: true})
		return nil
	})
}

// Compact forgets the history before a revision.
func (p *Pending) Compact(revision int64) error {
	if revision > p.state.Revision {
		return rpctypes.ErrGRPCFutureRev
	}
	if revision <= p.state.Compacted {
		return rpctypes.ErrGRPCCompacted
	}
	p.state.compact(revision)
	return nil
}

func (s *State) compact(revision int64) {
	s.Compacted = revision
	var gone []*Version
	s.dead.Scan(func(v *Version) bool {
		if v.ModRevision() <= revision {
			gone = append(gone, v)
		}
		return true
	})
	for _, v := range gone {
		s.dead.Delete(v)
	}
}

// nextID is the ID of the next change of the request that is being applied.
func (p *Pending) nextID() int64 {
	id := ID(p.state.Revision+1, p.sub)
	p.sub++
	return id
}

// revision is what the request that is being applied sees as the current one.
func (p *Pending) revision() int64 {
	if p.sub > 0 {
		return p.state.Revision + 1
	}
	return p.state.Revision
}

func (p *Pending) header() *pb.ResponseHeader { return &pb.ResponseHeader{Revision: p.revision()} }

func (p *Pending) put(r *pb.PutRequest) (*pb.PutResponse, error) {
	key := string(r.Key)
	prev := p.state.Get(key)
	value, lease := r.Value, r.Lease
	if err := p.putable(r, prev); err != nil {
		return nil, err
	}
	if r.IgnoreLease {
		lease = prev.Lease
	}
	var old []byte
	if prev != nil && (r.IgnoreValue || r.PrevKv) {
		values, err := p.reader.Values([]*Version{prev})
		if err != nil {
			return nil, err
		}
		old = values[0]
	}
	if r.IgnoreValue {
		value = old
	}
	if p.sub == MaxChanges {
		return nil, ErrTooManyChanges
	}
	p.set(key, value, lease, prev)
	resp := &pb.PutResponse{Header: p.header()}
	if r.PrevKv && prev != nil {
		resp.PrevKv = prev.KV(old)
	}
	return resp, nil
}

// putable reports whether what a put refers to exists.
func (p *Pending) putable(r *pb.PutRequest, prev *Version) error {
	if r.Lease != 0 {
		if _, ok := p.state.Lease(r.Lease); !ok {
			return rpctypes.ErrGRPCLeaseNotFound
		}
	}
	if prev == nil && (r.IgnoreValue || r.IgnoreLease) {
		return rpctypes.ErrGRPCKeyNotFound
	}
	return nil
}

// set makes the next version of a key.
func (p *Pending) set(key string, value []byte, lease int64, prev *Version) {
	id := p.nextID()
	v := &Version{Key: key, ID: id, CreateRevision: Revision(id), Version: 1, Lease: lease}
	if prev != nil {
		// One string for all versions of a key.
		v.Key, v.Prev, v.CreateRevision, v.Version = prev.Key, prev.ID, prev.CreateRevision, prev.Version+1
		p.detach(prev)
	} else if tombstone, ok := p.state.dead.Delete(v); ok {
		v.Prev = tombstone.ID
	}
	v.SetValue(value)
	p.state.live.Set(v)
	if lease != 0 {
		p.state.attached.Set(attachment{lease, v.Key})
	}
	p.changes = append(p.changes, Change{Cur: v, Prev: prev})
}

func (p *Pending) detach(v *Version) {
	if v.Lease != 0 {
		p.state.attached.Delete(attachment{v.Lease, v.Key})
	}
}

func (p *Pending) delete(prev *Version) {
	v := &Version{Key: prev.Key, ID: p.nextID(), Prev: prev.ID}
	p.detach(prev)
	p.state.live.Delete(prev)
	p.state.dead.Set(v)
	p.changes = append(p.changes, Change{Cur: v, Prev: prev})
}

func (p *Pending) deleteRange(r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	var victims []*Version
	p.state.scan(interval(r.Key, r.RangeEnd), func(v *Version) bool {
		victims = append(victims, v)
		return true
	})
	if len(victims) > MaxChanges-p.sub {
		return nil, ErrTooManyChanges
	}
	resp := &pb.DeleteRangeResponse{Deleted: int64(len(victims))}
	if r.PrevKv && len(victims) > 0 {
		values, err := p.reader.Values(victims)
		if err != nil {
			return nil, err
		}
		for i, v := range victims {
			resp.PrevKvs = append(resp.PrevKvs, v.KV(values[i]))
		}
	}
	for _, v := range victims {
		p.delete(v)
	}
	resp.Header = p.header()
	return resp, nil
}

// Load puts a record of the log into a State that nobody else has yet; records
// come in the order of their IDs. It returns what the key was before.
func (s *State) Load(v *Version) (prev *Version) {
	prev = s.Get(v.Key)
	if prev != nil {
		v.Key = prev.Key
		if prev.Lease != 0 {
			s.attached.Delete(attachment{prev.Lease, prev.Key})
		}
	} else {
		v.Key = strings.Clone(v.Key)
	}
	s.Revision = max(s.Revision, v.ModRevision())
	if v.Tombstone() {
		s.live.Delete(v)
		if v.ModRevision() > s.Compacted {
			s.dead.Set(v)
		}
		return prev
	}
	s.dead.Delete(v)
	s.live.Set(v)
	if v.Lease != 0 {
		s.attached.Set(attachment{v.Lease, v.Key})
	}
	return prev
}

// LoadLease puts a lease of the log into a State that nobody else has yet.
func (s *State) LoadLease(l Lease) { s.leases.Set(l) }
