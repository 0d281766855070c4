package etcdapi

import (
	"context"
	"encoding/binary"
	"hash"
	"hash/crc32"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/limpetio/limpet/datastore"
)

// Status describes the member: it leads itself, and each revision is an entry
// of the raft log that it does not have.
func (s *service) Status(context.Context, *pb.StatusRequest) (*pb.StatusResponse, error) {
	header, stats := s.current(), s.store.Log().Stats()
	resp := &pb.StatusResponse{
		Header: header, Version: Version, StorageVersion: storageVersion,
		DbSize: stats.FileBytes, DbSizeInUse: max(0, stats.FileBytes-stats.FreePages*stats.PageSize),
		Leader: s.memberID, RaftTerm: raftTerm,
		RaftIndex: uint64(header.Revision), RaftAppliedIndex: uint64(header.Revision),
		DowngradeInfo: &pb.DowngradeInfo{},
	}
	for _, alarm := range s.alarms() {
		resp.Errors = append(resp.Errors, alarm.String())
	}
	return resp, nil
}

// alarms are the reasons for which the store does not work as it should.
func (s *service) alarms() []*pb.AlarmMember {
	if s.full() {
		return []*pb.AlarmMember{{MemberID: s.memberID, Alarm: pb.AlarmType_NOSPACE}}
	}
	return nil
}

// Alarm lists alarms. They come and go by themselves: disarming one does nothing.
func (s *service) Alarm(_ context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	resp := &pb.AlarmResponse{Header: s.current()}
	switch r.Action {
	case pb.AlarmRequest_GET:
		for _, alarm := range s.alarms() {
			if r.Alarm == pb.AlarmType_NONE || r.Alarm == alarm.Alarm {
				resp.Alarms = append(resp.Alarms, alarm)
			}
		}
	case pb.AlarmRequest_DEACTIVATE:
	default:
		return nil, status.Error(codes.Unimplemented, "limpet: alarms cannot be raised by clients")
	}
	return resp, nil
}

// Defragment gives free space back to the file system, while others go on.
func (s *service) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if err := s.store.Log().Defragment(ctx); err != nil {
		return nil, datastore.StatusOf(err)
	}
	return &pb.DefragmentResponse{Header: s.current()}, nil
}

// Hash is HashKV of now, with the leases.
func (s *service) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	h := newHash()
	revision, err := s.hashKeys(ctx, 0, h)
	if err != nil {
		return nil, err
	}
	for _, lease := range s.store.State().Leases() {
		h.numbers(lease.ID, lease.TTL)
	}
	return &pb.HashResponse{Header: s.header(revision), Hash: h.Sum32()}, nil
}

// HashKV is a checksum of all keys as of a revision, 0 being the current one. It
// is the same wherever the keys are the same; it differs from etcd's, which is
// one of etcd's file.
func (s *service) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	h := newHash()
	revision, err := s.hashKeys(ctx, r.Revision, h)
	if err != nil {
		return nil, err
	}
	hashed := r.Revision
	if hashed <= 0 {
		hashed = revision
	}
	return &pb.HashKVResponse{
		Header: s.header(revision), Hash: h.Sum32(), HashRevision: hashed,
		CompactRevision: s.store.State().Compacted,
	}, nil
}

// hashKeys returns the current revision.
func (s *service) hashKeys(ctx context.Context, revision int64, h keyHash) (current int64, err error) {
	all := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: revision}
	err = s.inPieces(ctx, all, func(piece *pb.RangeResponse, _ bool) error {
		current = piece.Header.Revision
		for _, kv := range piece.Kvs {
			h.add(kv)
		}
		return nil
	})
	return current, err
}

type keyHash struct{ hash.Hash32 }

func newHash() keyHash { return keyHash{crc32.New(crc32.MakeTable(crc32.Castagnoli))} }

func (h keyHash) add(kv *mvccpb.KeyValue) {
	h.numbers(int64(len(kv.Key)), int64(len(kv.Value)), kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
	_, _ = h.Write(kv.Key) // never fails: see hash.Hash
	_, _ = h.Write(kv.Value)
}

func (h keyHash) numbers(list ...int64) {
	var b []byte
	for _, n := range list {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	_, _ = h.Write(b)
}
