package engine

import (
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// MaxTxnOps is how many operations a transaction may have: etcd's default.
const MaxTxnOps = 128

func checkRange(r *pb.RangeRequest) error {
	if len(r.Key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if _, ok := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	if _, ok := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.Key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) > 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

// CheckTxn refuses a transaction that is malformed, whatever the keys are.
func CheckTxn(r *pb.TxnRequest) error {
	if err := checkShape(r, MaxTxnOps); err != nil {
		return err
	}
	_, err := writesOf(r)
	return err
}

// checkShape refuses what makes no sense by itself. A transaction within another
// one may have as many operations as that one leaves: nesting does not multiply
// them without end.
func checkShape(r *pb.TxnRequest, most int) error {
	ops := max(len(r.Compare), len(r.Success), len(r.Failure))
	if ops > most {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.GetKey()) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, list := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range list {
			if err := checkOp(op, most-ops); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, most int) error {
	switch r := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(r.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(r.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		if len(r.RequestDeleteRange.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
		return nil
	case *pb.RequestOp_RequestTxn:
		return checkShape(r.RequestTxn, most)
	}
	return rpctypes.ErrGRPCKeyNotFound // an operation without content, as etcd has it
}

// writes are the keys that operations change.
type writes struct {
	puts    map[string]struct{}
	deletes []Interval
}

func (w *writes) add(o writes) {
	if w.puts == nil {
		w.puts = o.puts
	} else {
		maps.Copy(w.puts, o.puts)
	}
	w.deletes = append(w.deletes, o.deletes...)
}

// writesOf refuses operations of which two would change the same key in one
// revision.
func writesOf(r *pb.TxnRequest) (writes, error) {
	success, err := writesOfAll(r.Success)
	if err != nil {
		return writes{}, err
	}
	failure, err := writesOfAll(r.Failure)
	// Only one of the two branches is taken: they may change the same keys.
	success.add(failure)
	return success, err
}

func writesOfAll(ops []*pb.RequestOp) (all writes, err error) {
	for _, op := range ops {
		var w writes
		switch r := op.GetRequest().(type) {
		case *pb.RequestOp_RequestPut:
			w.puts = map[string]struct{}{string(r.RequestPut.Key): {}}
		case *pb.RequestOp_RequestDeleteRange:
			w.deletes = []Interval{interval(r.RequestDeleteRange.Key, r.RequestDeleteRange.RangeEnd)}
		case *pb.RequestOp_RequestTxn:
			w, err = writesOf(r.RequestTxn)
		}
		if err != nil {
			return writes{}, err
		}
		if all.conflicts(w) {
			return writes{}, rpctypes.ErrGRPCDuplicateKey
		}
		all.add(w)
	}
	return all, nil
}

// conflicts: two puts of a key, or a put of a key that is deleted. Deleting
// twice is allowed: the second finds nothing.
func (w writes) conflicts(o writes) bool {
	for put := range o.puts {
		if _, twice := w.puts[put]; twice || deleted(w.deletes, put) {
			return true
		}
	}
	if len(o.deletes) > 0 {
		for put := range w.puts {
			if deleted(o.deletes, put) {
				return true
			}
		}
	}
	return false
}

func deleted(deletes []Interval, key string) bool {
	return slices.ContainsFunc(deletes, func(i Interval) bool { return i.Contains(key) })
}

// Writes reports whether a transaction may change anything.
func Writes(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			switch o := op.GetRequest().(type) {
			case *pb.RequestOp_RequestPut, *pb.RequestOp_RequestDeleteRange:
				return true
			case *pb.RequestOp_RequestTxn:
				if Writes(o.RequestTxn) {
					return true
				}
			}
		}
	}
	return false
}
