package etcdapi

import (
	"context"
	"errors"
	"hash/fnv"
	"log/slog"

	kine "github.com/k3s-io/kine/pkg/server"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/datastore/sqlog"
)

const (
	// Version is the version of etcd that the server claims to be. From 3.6 on
	// the apiserver serves consistent reads from its watch cache.
	Version = "3.6.11"
	// storageVersion is what etcd of that version calls its file format.
	storageVersion = "3.6.0"
	// raftTerm never changes: there is nobody to elect.
	raftTerm = 1
)

// service implements the calls. What is not here is kine's: changes of
// membership, of the leader and of the version, which it refuses.
type service struct {
	*kine.KVServerBridge

	store     *datastore.Store
	logger    *slog.Logger
	socket    string
	snapshot  func(ctx context.Context, path string) error
	clusterID uint64
	memberID  uint64

	progress *notifier
	// stopping is closed when streams are to end.
	stopping chan struct{}
	// snapshots holds one token: two at a time would need the space of two.
	snapshots chan struct{}
}

func newService(opts Options) *service {
	s := &service{
		KVServerBridge: kine.New(datastore.Backend{Store: opts.Store}, "unix", opts.ProgressInterval, Version),
		store:          opts.Store, logger: opts.Logger, socket: opts.Socket, snapshot: opts.Snapshot,
		clusterID: idOf("cluster", opts.Store.Path()), memberID: idOf("member", opts.Store.Path()),
		progress:  newNotifier(opts.ProgressInterval),
		stopping:  make(chan struct{}),
		snapshots: make(chan struct{}, 1),
	}
	s.removeSnapshots()
	return s
}

// idOf is the same whenever the store is opened, and not 0, which means nobody.
func idOf(what, path string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(what + "\x00" + path)) // never fails: see hash.Hash
	return max(h.Sum64(), 1)
}

// header is that of an answer as of a revision.
func (s *service) header(revision int64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: s.clusterID, MemberId: s.memberID, Revision: revision, RaftTerm: raftTerm}
}

// current is the header of an answer that is not about a revision.
func (s *service) current() *pb.ResponseHeader { return s.header(s.store.State().Revision) }

// full reports whether the disk was full when something was last to be written.
func (s *service) full() bool { return errors.Is(s.store.Failing(), sqlog.ErrNoSpace) }

// MemberList tells of the only member.
func (s *service) MemberList(context.Context, *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	return &pb.MemberListResponse{
		Header:  s.current(),
		Members: []*pb.Member{{ID: s.memberID, Name: "limpet", ClientURLs: []string{"unix://" + s.socket}}},
	}, nil
}
