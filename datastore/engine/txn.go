package engine

import (
	"bytes"
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// ReadTxn answers a transaction that does not write.
func (s *State) ReadTxn(r *pb.TxnRequest, reader Reader) (*pb.TxnResponse, error) {
	if err := CheckTxn(r); err != nil {
		return nil, err
	}
	// The State is shared and must not be copied from, but this one only reads.
	p := &Pending{state: *s, reader: reader}
	return p.txn(r)
}

// plan is the way that a transaction takes.
type plan struct {
	ok     bool
	ops    []*pb.RequestOp
	nested map[*pb.RequestOp]*plan
}

func (p *Pending) txn(r *pb.TxnRequest) (*pb.TxnResponse, error) {
	plan, err := p.plan(r)
	if err != nil {
		return nil, err
	}
	return p.run(plan)
}

// plan decides by what was there before the transaction, as etcd does: also a
// transaction within one does not compare with what the outer one has changed.
// It refuses what cannot succeed.
func (p *Pending) plan(r *pb.TxnRequest) (*plan, error) {
	ok, err := p.compare(r.Compare)
	if err != nil {
		return nil, err
	}
	t := &plan{ok: ok, ops: r.Failure}
	if ok {
		t.ops = r.Success
	}
	for _, op := range t.ops {
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			err = p.state.readable(r.RequestRange)
		case *pb.RequestOp_RequestPut:
			err = p.putable(r.RequestPut, p.state.Get(string(r.RequestPut.Key)))
		case *pb.RequestOp_RequestTxn:
			if t.nested == nil {
				t.nested = map[*pb.RequestOp]*plan{}
			}
			t.nested[op], err = p.plan(r.RequestTxn)
		}
		if err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (p *Pending) run(t *plan) (*pb.TxnResponse, error) {
	resp := &pb.TxnResponse{Succeeded: t.ok, Responses: make([]*pb.ResponseOp, len(t.ops))}
	for i, op := range t.ops {
		var err error
		if resp.Responses[i], err = p.op(t, op); err != nil {
			return nil, err
		}
	}
	resp.Header = p.header()
	return resp, nil
}

func (p *Pending) op(t *plan, op *pb.RequestOp) (*pb.ResponseOp, error) {
	switch r := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		resp, err := p.rangeWithin(r.RequestRange)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: resp}}, err
	case *pb.RequestOp_RequestPut:
		resp, err := p.put(r.RequestPut)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: resp}}, err
	case *pb.RequestOp_RequestDeleteRange:
		resp, err := p.deleteRange(r.RequestDeleteRange)
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: resp}}, err
	case *pb.RequestOp_RequestTxn:
		resp, err := p.run(t.nested[op])
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: resp}}, err
	}
	return nil, rpctypes.ErrGRPCKeyNotFound
}

// rangeWithin answers a range that sees what the transaction did before it.
func (p *Pending) rangeWithin(r *pb.RangeRequest) (*pb.RangeResponse, error) {
	now := p.state
	now.Revision = p.revision()
	return now.Range(r, p.reader)
}

// compare reports whether all comparisons hold.
func (p *Pending) compare(list []*pb.Compare) (bool, error) {
	for _, c := range list {
		ok, err := p.compareOne(c)
		if err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// compareOne holds if it does for every key in its interval. A key that does not
// exist has revisions and a version of 0, and no value that could be compared.
func (p *Pending) compareOne(c *pb.Compare) (bool, error) {
	var versions []*Version
	p.state.scan(interval(c.Key, c.RangeEnd), func(v *Version) bool {
		versions = append(versions, v)
		return true
	})
	if len(versions) == 0 {
		if c.Target == pb.Compare_VALUE {
			return false, nil
		}
		return holds(c, &Version{}, nil), nil
	}
	values := make([][]byte, len(versions))
	if c.Target == pb.Compare_VALUE {
		var err error
		if values, err = p.reader.Values(versions); err != nil {
			return false, err
		}
	}
	for i, v := range versions {
		if !holds(c, v, values[i]) {
			return false, nil
		}
	}
	return true, nil
}

func holds(c *pb.Compare, v *Version, value []byte) bool {
	var result int
	switch c.Target {
	case pb.Compare_VALUE:
		result = bytes.Compare(value, c.GetValue())
	case pb.Compare_CREATE:
		result = cmp.Compare(v.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		result = cmp.Compare(v.ModRevision(), c.GetModRevision())
	case pb.Compare_VERSION:
		result = cmp.Compare(v.Version, c.GetVersion())
	case pb.Compare_LEASE:
		result = cmp.Compare(v.Lease, c.GetLease())
	default:
		return false
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return result == 0
	case pb.Compare_NOT_EQUAL:
		return result != 0
	case pb.Compare_GREATER:
		return result > 0
	case pb.Compare_LESS:
		return result < 0
	}
	return false
}
