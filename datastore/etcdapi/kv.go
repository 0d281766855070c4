package etcdapi

import (
	"bytes"
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

const (
	// A list in pieces aims at pieces of this size, and begins with so many keys.
	pieceBytes = 1 << 20
	firstPiece = 256
)

// Range reads keys.
func (s *service) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	resp, err := s.store.Range(ctx, r)
	if err != nil {
		return nil, err
	}
	resp.Header = s.header(resp.Header.Revision)
	return resp, nil
}

// RangeStream is Range with the answer in pieces; put together they are what
// Range answers. The last one has the header and the counts.
func (s *service) RangeStream(r *pb.RangeRequest, stream pb.KV_RangeStreamServer) error {
	var total int64
	first := true
	return s.inPieces(stream.Context(), r, func(resp *pb.RangeResponse, last bool) error {
		if first {
			total, first = resp.Count, false
		}
		if last {
			resp.Header, resp.Count = s.header(resp.Header.Revision), total
		} else {
			resp.Header, resp.More, resp.Count = nil, false, 0
		}
		return stream.Send(&pb.RangeStreamResponse{RangeResponse: resp})
	})
}

// inPieces reads what a request selects piece by piece, all as of the same
// revision, which is in the header of each.
func (s *service) inPieces(ctx context.Context, r *pb.RangeRequest, fn func(piece *pb.RangeResponse, last bool) error) error {
	if r.CountOnly || !byKey(r) { // of which there is no "next key"
		resp, err := s.store.Range(ctx, r)
		if err != nil {
			return err
		}
		return fn(resp, true)
	}
	next := proto.CloneOf(r)
	left := r.Limit // 0 is all
	var asOf int64
	for size := int64(firstPiece); ; {
		next.Limit = size
		if left > 0 {
			next.Limit = min(size, left)
		}
		resp, err := s.store.Range(ctx, next)
		if err != nil {
			return err
		}
		if asOf == 0 {
			asOf = resp.Header.Revision
			if next.Revision <= 0 {
				next.Revision = asOf
			}
		}
		resp.Header.Revision = asOf
		n := int64(len(resp.Kvs))
		last := !resp.More || left > 0 && left == n
		if !last {
			next.Key = append(bytes.Clone(resp.Kvs[n-1].Key), 0)
			size = nextPiece(n, proto.Size(resp))
			left -= min(left, n)
		}
		if err := fn(resp, last); err != nil || last {
			return err
		}
	}
}

// byKey reports whether the keys of an answer come in their order and none is
// left out.
func byKey(r *pb.RangeRequest) bool {
	return r.SortTarget == pb.RangeRequest_KEY && r.SortOrder != pb.RangeRequest_DESCEND &&
		r.MinModRevision == 0 && r.MaxModRevision == 0 && r.MinCreateRevision == 0 && r.MaxCreateRevision == 0
}

// nextPiece is how many keys are to be read after some that had a size.
func nextPiece(keys int64, size int) int64 {
	return max(1, min(keys*4, keys*pieceBytes/int64(max(size, 1))))
}

// Put sets a key.
func (s *service) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if proto.Size(r) > maxRequestBytes {
		return nil, rpctypes.ErrGRPCRequestTooLarge
	}
	resp, err := s.store.Put(ctx, r)
	if err != nil {
		return nil, err
	}
	resp.Header = s.header(resp.Header.Revision)
	return resp, nil
}

// DeleteRange deletes keys.
func (s *service) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if proto.Size(r) > maxRequestBytes {
		return nil, rpctypes.ErrGRPCRequestTooLarge
	}
	resp, err := s.store.DeleteRange(ctx, r)
	if err != nil {
		return nil, err
	}
	resp.Header = s.header(resp.Header.Revision)
	return resp, nil
}

// Txn runs a transaction.
func (s *service) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if proto.Size(r) > maxRequestBytes {
		return nil, rpctypes.ErrGRPCRequestTooLarge
	}
	resp, err := s.store.Txn(ctx, r)
	if err != nil {
		return nil, err
	}
	resp.Header = s.header(resp.Header.Revision)
	return resp, nil
}

// Compact forgets history. It returns when nobody can read it any more; the
// space is freed later, also when the request asks to wait for that.
func (s *service) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	revision, err := s.store.Compact(ctx, r.Revision)
	if err != nil {
		return nil, err
	}
	return &pb.CompactionResponse{Header: s.header(revision)}, nil
}
