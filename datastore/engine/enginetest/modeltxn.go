package enginetest

import (
	"bytes"
	"cmp"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// MaxOps is how many operations a transaction may have.
const MaxOps = 128

func opPut(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func opRange(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opDelete(r *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

// checkOp refuses operations that are malformed. A transaction within one may
// have as many operations as the outer one leaves.
func checkOp(op *pb.RequestOp, most int) error {
	switch r := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		switch {
		case len(r.RequestRange.Key) == 0:
			return rpctypes.ErrGRPCEmptyKey
		case r.RequestRange.SortOrder < 0 || r.RequestRange.SortOrder > 2, r.RequestRange.SortTarget < 0 || r.RequestRange.SortTarget > 4:
			return rpctypes.ErrGRPCInvalidSortOption
		}
		return nil
	case *pb.RequestOp_RequestPut:
		switch put := r.RequestPut; {
		case len(put.Key) == 0:
			return rpctypes.ErrGRPCEmptyKey
		case put.IgnoreValue && len(put.Value) > 0:
			return rpctypes.ErrGRPCValueProvided
		case put.IgnoreLease && put.Lease != 0:
			return rpctypes.ErrGRPCLeaseProvided
		}
		return nil
	case *pb.RequestOp_RequestDeleteRange:
		if len(r.RequestDeleteRange.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
		return nil
	case *pb.RequestOp_RequestTxn:
		return checkShape(r.RequestTxn, most)
	}
	return rpctypes.ErrGRPCKeyNotFound
}

func checkShape(r *pb.TxnRequest, most int) error {
	n := max(len(r.Compare), len(r.Success), len(r.Failure))
	if n > most {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, op := range append(append([]*pb.RequestOp(nil), r.Success...), r.Failure...) {
		if err := checkOp(op, most-n); err != nil {
			return err
		}
	}
	return nil
}

// path is a way through a transaction: what it would write if each comparison
// had a given outcome.
type path []*pb.RequestOp

// paths are all ways through operations.
func paths(ops []*pb.RequestOp) []path {
	all := []path{nil}
	for _, op := range ops {
		ways := []path{{op}}
		if txn := op.GetRequestTxn(); txn != nil {
			ways = append(paths(txn.Success), paths(txn.Failure)...)
		}
		var longer []path
		for _, before := range all {
			for _, way := range ways {
				longer = append(longer, append(append(path(nil), before...), way...))
			}
		}
		all = longer
	}
	return all
}

// writesTwice reports whether a way would put a key twice, or put and delete it.
func (p path) writesTwice() bool {
	for i, op := range p {
		put := op.GetRequestPut()
		if put == nil {
			continue
		}
		for j, other := range p {
			if r := other.GetRequestPut(); r != nil && i != j && bytes.Equal(r.Key, put.Key) {
				return true
			}
			if r := other.GetRequestDeleteRange(); r != nil && Contains(r.Key, r.RangeEnd, put.Key) {
				return true
			}
		}
	}
	return false
}

// CheckTxn refuses transactions that are malformed.
func CheckTxn(r *pb.TxnRequest) error {
	if err := checkShape(r, MaxOps); err != nil {
		return err
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, p := range paths(ops) {
			if p.writesTwice() {
				return rpctypes.ErrGRPCDuplicateKey
			}
		}
	}
	return nil
}

// Txn applies a transaction: first all comparisons, also those of transactions
// within it, then all checks, then what it does.
func (m *Model) Txn(r *pb.TxnRequest) (resp *pb.TxnResponse, err error) {
	if err := CheckTxn(r); err != nil {
		return nil, err
	}
	err = m.apply(func() error {
		before := m.Clone()
		if err := before.checkTaken(r); err != nil {
			return err
		}
		resp = m.txn(r, before)
		return nil
	})
	return resp, err
}

func (m *Model) taken(r *pb.TxnRequest) (ops []*pb.RequestOp, ok bool) {
	for _, c := range r.Compare {
		if !m.holds(c) {
			return r.Failure, false
		}
	}
	return r.Success, true
}

func (m *Model) checkTaken(r *pb.TxnRequest) (err error) {
	ops, _ := m.taken(r)
	for _, op := range ops {
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			err = m.readable(r.RequestRange)
		case *pb.RequestOp_RequestPut:
			err = m.possible(r.RequestPut)
		case *pb.RequestOp_RequestTxn:
			err = m.checkTaken(r.RequestTxn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *Model) txn(r *pb.TxnRequest, before *Model) *pb.TxnResponse {
	ops, ok := before.taken(r)
	resp := &pb.TxnResponse{Succeeded: ok}
	for _, op := range ops {
		out := &pb.ResponseOp{}
		switch r := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: m.rangeAt(r.RequestRange)}
		case *pb.RequestOp_RequestPut:
			out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: m.put(r.RequestPut)}
		case *pb.RequestOp_RequestDeleteRange:
			out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: m.deleteRange(r.RequestDeleteRange)}
		case *pb.RequestOp_RequestTxn:
			out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: m.txn(r.RequestTxn, before)}
		}
		resp.Responses = append(resp.Responses, out)
	}
	resp.Header = &pb.ResponseHeader{Revision: m.now()}
	return resp
}

func (m *Model) holds(c *pb.Compare) bool {
	kvs := m.within(c.Key, c.RangeEnd, m.Revision)
	if len(kvs) == 0 {
		if c.Target == pb.Compare_VALUE {
			return false
		}
		kvs = []*mvccpb.KeyValue{{}}
	}
	for _, kv := range kvs {
		if !compareHolds(c, kv) {
			return false
		}
	}
	return true
}

func compareHolds(c *pb.Compare, kv *mvccpb.KeyValue) bool {
	var order int
	switch c.Target {
	case pb.Compare_VERSION:
		order = cmp.Compare(kv.Version, c.GetVersion())
	case pb.Compare_CREATE:
		order = cmp.Compare(kv.CreateRevision, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = cmp.Compare(kv.ModRevision, c.GetModRevision())
	case pb.Compare_VALUE:
		order = bytes.Compare(kv.Value, c.GetValue())
	case pb.Compare_LEASE:
		order = cmp.Compare(kv.Lease, c.GetLease())
	}
	return map[pb.Compare_CompareResult]bool{
		pb.Compare_EQUAL: order == 0, pb.Compare_NOT_EQUAL: order != 0,
		pb.Compare_GREATER: order > 0, pb.Compare_LESS: order < 0,
	}[c.Result]
}
