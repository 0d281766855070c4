package etcdapi

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/limpetio/limpet/datastore"
)

// chunkBytes is how much of a snapshot one message has: etcd's choice.
const chunkBytes = 32 << 10

// Snapshot sends a snapshot, and after it its SHA-256, as etcd does: the client
// keeps that at the end of the file.
func (s *service) Snapshot(_ *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) error {
	if s.snapshot == nil {
		return status.Error(codes.Unimplemented, "limpet: this server makes no snapshots for etcd's clients")
	}
	ctx := stream.Context()
	select {
	case s.snapshots <- struct{}{}:
		defer func() { <-s.snapshots }()
	case <-ctx.Done():
		return datastore.StatusOf(ctx.Err())
	}
	f, err := s.makeSnapshot(ctx)
	if err != nil {
		s.logger.Warn("snapshot for a client failed", "error", err)
		return datastore.StatusOf(err)
	}
	defer f.Close()
	return s.sendSnapshot(f, stream)
}

// makeSnapshot returns a file that has no name any more: it is gone when it is
// closed, whatever happens.
func (s *service) makeSnapshot(ctx context.Context) (*os.File, error) {
	dir, err := os.MkdirTemp(filepath.Dir(s.store.Path()), s.snapshotPrefix()+"*")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the snapshot: %w", err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the next start removes what is left
	path := filepath.Join(dir, "db")
	if err := s.snapshot(ctx, path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open snapshot: %w", err)
	}
	return f, nil
}

func (s *service) snapshotPrefix() string { return filepath.Base(s.store.Path()) + ".snapshot-" }

// removeSnapshots removes what a process left that was killed.
func (s *service) removeSnapshots() {
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(s.store.Path()), s.snapshotPrefix()+"*")) // the pattern is valid
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			s.logger.Warn("an unfinished snapshot cannot be removed", "path", dir, "error", err)
		}
	}
}

func (s *service) sendSnapshot(f *os.File, stream pb.Maintenance_SnapshotServer) error {
	info, err := f.Stat()
	if err != nil {
		return datastore.StatusOf(fmt.Errorf("size of the snapshot: %w", err))
	}
	header, sum := s.current(), sha256.New()
	for left := info.Size(); left > 0; {
		chunk := make([]byte, min(left, chunkBytes)) // gRPC may keep it after Send
		if _, err := io.ReadFull(f, chunk); err != nil {
			return datastore.StatusOf(fmt.Errorf("read snapshot: %w", err))
		}
		left -= int64(len(chunk))
		_, _ = sum.Write(chunk) // never fails: see hash.Hash
		err := stream.Send(&pb.SnapshotResponse{Header: header, RemainingBytes: uint64(left), Blob: chunk, Version: storageVersion})
		if err != nil {
			return err
		}
	}
	return stream.Send(&pb.SnapshotResponse{Header: header, Blob: sum.Sum(nil), Version: storageVersion})
}
