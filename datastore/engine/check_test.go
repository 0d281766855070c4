package engine

import (
	"errors"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func opPut(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
}

func opDelete(key, end string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)},
	}}
}

func opRange(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func opTxn(success, failure []*pb.RequestOp) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: success, Failure: failure}}}
}

func ops(list ...*pb.RequestOp) []*pb.RequestOp { return list }

func many(op *pb.RequestOp, n int) []*pb.RequestOp { return slices.Repeat(ops(op), n) }

func TestCheckTxn(t *testing.T) {
	t.Parallel()
	read := opRange(&pb.RangeRequest{Key: []byte("r")})
	tests := map[string]struct {
		success, failure []*pb.RequestOp
		compare          []*pb.Compare
		want             error
	}{
		"nothing":           {},
		"different keys":    {success: ops(opPut("a"), opPut("b"), opDelete("c", "d"), read)},
		"both branches":     {success: ops(opPut("a")), failure: ops(opPut("a"))},
		"deleted twice":     {success: ops(opDelete("a", "c"), opDelete("b", ""))},
		"beside a deletion": {success: ops(opPut("c"), opDelete("a", "c"))},
		"within branches":   {success: ops(opTxn(ops(opPut("a")), ops(opPut("a"))))},
		"put and its branch's deletion": {
			success: ops(opTxn(ops(opPut("a")), ops(opDelete("a", "")))),
		},

		"put twice":              {success: ops(opPut("a"), read, opPut("a")), want: rpctypes.ErrGRPCDuplicateKey},
		"put twice in failure":   {failure: ops(opPut("a"), opPut("a")), want: rpctypes.ErrGRPCDuplicateKey},
		"put and deleted":        {success: ops(opPut("a"), opDelete("a", "")), want: rpctypes.ErrGRPCDuplicateKey},
		"deleted and put":        {success: ops(opDelete("a", "c"), opPut("b")), want: rpctypes.ErrGRPCDuplicateKey},
		"deleted to the end":     {success: ops(opDelete("a", "\x00"), opPut("b")), want: rpctypes.ErrGRPCDuplicateKey},
		"put within":             {success: ops(opPut("a"), opTxn(nil, ops(opPut("a")))), want: rpctypes.ErrGRPCDuplicateKey},
		"put within, before":     {success: ops(opTxn(ops(opPut("a")), nil), opPut("a")), want: rpctypes.ErrGRPCDuplicateKey},
		"put within two":         {success: ops(opTxn(ops(opPut("a")), nil), opTxn(ops(opPut("a")), nil)), want: rpctypes.ErrGRPCDuplicateKey},
		"deleted within":         {success: ops(opPut("a"), opTxn(ops(opDelete("a", "b")), nil)), want: rpctypes.ErrGRPCDuplicateKey},
		"deleted beside, within": {success: ops(opTxn(ops(opPut("a")), nil), opTxn(ops(opDelete("a", "b")), nil)), want: rpctypes.ErrGRPCDuplicateKey},

		"as many as possible":       {success: many(read, MaxTxnOps), failure: many(read, MaxTxnOps)},
		"too many":                  {success: many(read, MaxTxnOps+1), want: rpctypes.ErrGRPCTooManyOps},
		"too many in failure":       {failure: many(read, MaxTxnOps+1), want: rpctypes.ErrGRPCTooManyOps},
		"too many comparisons":      {compare: slices.Repeat([]*pb.Compare{{Key: []byte("a")}}, MaxTxnOps+1), want: rpctypes.ErrGRPCTooManyOps},
		"as many as possible below": {success: ops(opTxn(many(read, MaxTxnOps-1), nil))},
		"too many below":            {success: ops(opTxn(many(read, MaxTxnOps), nil)), want: rpctypes.ErrGRPCTooManyOps},

		"no key to put":      {success: ops(opPut("")), want: rpctypes.ErrGRPCEmptyKey},
		"no key to delete":   {failure: ops(opDelete("", "z")), want: rpctypes.ErrGRPCEmptyKey},
		"no key to read":     {success: ops(opRange(&pb.RangeRequest{})), want: rpctypes.ErrGRPCEmptyKey},
		"no key to compare":  {compare: []*pb.Compare{{}}, want: rpctypes.ErrGRPCEmptyKey},
		"no comparison":      {compare: []*pb.Compare{nil}, want: rpctypes.ErrGRPCEmptyKey},
		"no key below":       {success: ops(opTxn(nil, ops(opPut("")))), want: rpctypes.ErrGRPCEmptyKey},
		"no operation":       {success: ops(&pb.RequestOp{}), want: rpctypes.ErrGRPCKeyNotFound},
		"nil":                {success: ops(nil), want: rpctypes.ErrGRPCKeyNotFound},
		"malformed, not two": {success: ops(opPut("a"), opPut("a"), opPut("")), want: rpctypes.ErrGRPCEmptyKey},
		"unknown order":      {success: ops(opRange(&pb.RangeRequest{Key: []byte("a"), SortOrder: 3})), want: rpctypes.ErrGRPCInvalidSortOption},
		"unknown target":     {success: ops(opRange(&pb.RangeRequest{Key: []byte("a"), SortTarget: -1})), want: rpctypes.ErrGRPCInvalidSortOption},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &pb.TxnRequest{Compare: tt.compare, Success: tt.success, Failure: tt.failure}
			if err := CheckTxn(r); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			p := New().Begin(memory{})
			if _, err := p.Txn(r); !errors.Is(err, tt.want) {
				t.Errorf("when applied: %v, want %v", err, tt.want)
			}
		})
	}
}

func TestCheckPut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		r    *pb.PutRequest
		want error
	}{
		{&pb.PutRequest{}, rpctypes.ErrGRPCEmptyKey},
		{&pb.PutRequest{Key: []byte("a"), IgnoreValue: true, Value: []byte("v")}, rpctypes.ErrGRPCValueProvided},
		{&pb.PutRequest{Key: []byte("a"), IgnoreLease: true, Lease: 1}, rpctypes.ErrGRPCLeaseProvided},
		{&pb.PutRequest{Key: []byte("a"), Lease: 1}, rpctypes.ErrGRPCLeaseNotFound},
		{&pb.PutRequest{Key: []byte("a"), IgnoreValue: true}, rpctypes.ErrGRPCKeyNotFound},
		{&pb.PutRequest{Key: []byte("a"), IgnoreLease: true}, rpctypes.ErrGRPCKeyNotFound},
	} {
		p := New().Begin(memory{})
		if _, err := p.Put(tt.r); !errors.Is(err, tt.want) {
			t.Errorf("%v: %v, want %v", tt.r, err, tt.want)
		}
		if p.State().Revision != 1 || p.Changes() != nil {
			t.Errorf("%v changed something", tt.r)
		}
	}
}

func TestWrites(t *testing.T) {
	t.Parallel()
	read := opRange(&pb.RangeRequest{Key: []byte("r")})
	for _, tt := range []struct {
		r    *pb.TxnRequest
		want bool
	}{
		{&pb.TxnRequest{}, false},
		{&pb.TxnRequest{Success: ops(read, opTxn(ops(read), nil))}, false},
		{&pb.TxnRequest{Success: ops(read), Failure: ops(read, opPut("a"))}, true},
		{&pb.TxnRequest{Success: ops(opDelete("a", ""))}, true},
		{&pb.TxnRequest{Failure: ops(opTxn(nil, ops(opTxn(nil, ops(opPut("a"))))))}, true},
	} {
		if got := Writes(tt.r); got != tt.want {
			t.Errorf("%v: %v", tt.r, got)
		}
	}
}
