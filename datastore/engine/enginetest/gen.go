package enginetest

import (
	"bytes"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Source turns bytes into decisions. When the bytes are used up, every decision
// is the first.
type Source struct{ data []byte }

// NewSource decides by data.
func NewSource(data []byte) *Source { return &Source{data} }

// Done reports whether the bytes are used up.
func (s *Source) Done() bool { return len(s.data) == 0 }

// Intn is a number from 0 up to and without n, which is at most 256.
func (s *Source) Intn(n int) int {
	if s.Done() {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return int(b) % n
}

// OneIn is true once in n times.
func (s *Source) OneIn(n int) bool { return s.Intn(n) == n-1 }

// Kind is what a request does.
type Kind int

// The kinds of requests.
const (
	Put Kind = iota
	Range
	DeleteRange
	Txn
	Grant
	Revoke
	Compact
)

// Request is one of its fields, or a number (Grant, Revoke, Compact).
type Request struct {
	Kind        Kind
	Put         *pb.PutRequest
	Range       *pb.RangeRequest
	DeleteRange *pb.DeleteRangeRequest
	Txn         *pb.TxnRequest
	Number      int64
}

// Few keys, so that requests meet each other. There are no more than twelve:
// that is up to where etcd's sorting keeps the order of equals.
func keys() []string { return []string{"a", "a\x00", "aa", "ab", "b", "c", "c\xff", "z"} }

const (
	leases = 4 // IDs from 1 to this
	depth  = 2 // of transactions within transactions
)

// Generator makes requests that mostly make sense at a revision.
type Generator struct {
	*Source
	Revision int64
}

// Next is the next request.
func (g *Generator) Next() Request {
	switch g.Intn(16) {
	case 0, 1, 2, 3:
		return Request{Kind: Put, Put: g.put()}
	case 4, 5, 6:
		return Request{Kind: Range, Range: g.rangeRequest()}
	case 7:
		return Request{Kind: DeleteRange, DeleteRange: g.deleteRange()}
	case 8:
		return Request{Kind: Grant, Number: int64(1 + g.Intn(leases))}
	case 9:
		return Request{Kind: Revoke, Number: int64(1 + g.Intn(leases))}
	case 10:
		if !g.OneIn(4) {
			return Request{Kind: Compact, Number: g.Revision - int64(g.Intn(6))}
		}
		return Request{Kind: Compact, Number: g.revision()}
	}
	return Request{Kind: Txn, Txn: g.txn(depth)}
}

func (g *Generator) key() []byte {
	all := keys()
	i := g.Intn(len(all)*8 + 1)
	if i == len(all)*8 {
		return nil
	}
	return []byte(all[i%len(all)])
}

// interval is a key and where the range ends: at the key itself, at another
// key, which may be before it, or at the end of all keys.
func (g *Generator) interval() (key, end []byte) {
	key = g.key()
	switch g.Intn(5) {
	case 0, 1:
		return key, nil
	case 2:
		return key, []byte{0}
	}
	return key, g.key()
}

// revision is mostly one that can be read.
func (g *Generator) revision() int64 {
	switch g.Intn(8) {
	case 0:
		return g.Revision
	case 1:
		return g.Revision + 1
	case 2, 3, 4:
		return max(0, g.Revision-int64(g.Intn(12)))
	}
	return 0
}

func (g *Generator) value() []byte {
	n := g.Intn(6)
	return bytes.Repeat([]byte{byte('0' + n)}, []int{0, 1, 1, 5, 40, 200}[n])
}

func (g *Generator) lease() int64 { return max(0, int64(g.Intn(leases*3)-leases*2+1)) }

func (g *Generator) put() *pb.PutRequest {
	r := &pb.PutRequest{Key: g.key(), PrevKv: g.OneIn(3)}
	if r.IgnoreValue = g.OneIn(6); !r.IgnoreValue || g.OneIn(6) {
		r.Value = g.value()
	}
	if r.IgnoreLease = g.OneIn(6); !r.IgnoreLease || g.OneIn(6) {
		r.Lease = g.lease()
	}
	return r
}

func (g *Generator) deleteRange() *pb.DeleteRangeRequest {
	r := &pb.DeleteRangeRequest{PrevKv: g.OneIn(2)}
	r.Key, r.RangeEnd = g.interval()
	return r
}

func (g *Generator) rangeRequest() *pb.RangeRequest {
	r := &pb.RangeRequest{}
	if r.Key, r.RangeEnd = g.interval(); g.OneIn(3) {
		r.Key, r.RangeEnd = []byte{0}, []byte{0}
	}
	r.Revision = g.revision()
	options := g.Intn(256)
	if options&1 != 0 {
		r.Limit = []int64{1, 2, 3, 5, -1, math.MaxInt64}[g.Intn(6)]
	}
	r.KeysOnly = options&2 != 0
	r.CountOnly = options&28 == 28
	if options&32 != 0 {
		r.SortOrder = pb.RangeRequest_SortOrder(g.Intn(4)) // 3 does not exist
		r.SortTarget = pb.RangeRequest_SortTarget(g.Intn(6))
	}
	if options&192 == 192 {
		r.MinModRevision, r.MaxModRevision = g.bound(), g.bound()
		r.MinCreateRevision, r.MaxCreateRevision = g.bound(), g.bound()
	}
	return r
}

func (g *Generator) bound() int64 {
	if g.OneIn(3) {
		return g.Revision - int64(g.Intn(16)) // may be negative: nothing is before it
	}
	return 0
}

func (g *Generator) txn(depth int) *pb.TxnRequest {
	r := &pb.TxnRequest{Success: g.ops(depth), Failure: g.ops(depth)}
	for range g.Intn(3) {
		r.Compare = append(r.Compare, g.compare())
	}
	return r
}

func (g *Generator) ops(depth int) []*pb.RequestOp {
	ops := make([]*pb.RequestOp, g.Intn(4))
	for i := range ops {
		ops[i] = g.op(depth)
	}
	return ops
}

func (g *Generator) op(depth int) *pb.RequestOp {
	switch n := g.Intn(20); {
	case n < 8:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: g.put()}}
	case n < 13:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeRequest()}}
	case n < 16:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: g.deleteRange()}}
	case n < 19 && depth > 0:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: g.txn(depth - 1)}}
	case n == 19 && g.OneIn(8):
		return &pb.RequestOp{}
	}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: g.rangeRequest()}}
}

func (g *Generator) compare() *pb.Compare {
	c := &pb.Compare{
		Result: pb.Compare_CompareResult(g.Intn(4)),
		Target: pb.Compare_CompareTarget(g.Intn(5)),
	}
	if c.Key, c.RangeEnd = g.interval(); g.OneIn(2) {
		c.RangeEnd = nil
	}
	number := int64(g.Intn(4))
	switch c.Target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: number}
	case pb.Compare_CREATE:
		c.TargetUnion = &pb.Compare_CreateRevision{CreateRevision: g.revision()}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: g.revision()}
	case pb.Compare_VALUE:
		c.TargetUnion = &pb.Compare_Value{Value: g.value()}
	case pb.Compare_LEASE:
		c.TargetUnion = &pb.Compare_Lease{Lease: number}
	}
	if g.OneIn(16) {
		c.TargetUnion = nil
	}
	return c
}
