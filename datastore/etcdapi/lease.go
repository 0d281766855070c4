package etcdapi

import (
	"context"
	"errors"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// LeaseGrant makes a lease.
func (s *service) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	lease, err := s.store.LeaseGrant(ctx, r.ID, r.TTL)
	if err != nil {
		return nil, err
	}
	return &pb.LeaseGrantResponse{Header: s.current(), ID: lease.ID, TTL: lease.TTL}, nil
}

// LeaseRevoke ends a lease.
func (s *service) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if err := s.store.LeaseRevoke(ctx, r.ID); err != nil {
		return nil, err
	}
	return &pb.LeaseRevokeResponse{Header: s.current()}, nil
}

// LeaseKeepAlive renews leases, as long as the client asks for it. A TTL of 0
// tells it that a lease is gone.
func (s *service) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	requests, ended := receive(stream.Context(), stream.Recv)
	for {
		select {
		case r := <-requests:
			// The header first: a revision at which the lease is certainly alive.
			resp := &pb.LeaseKeepAliveResponse{Header: s.current(), ID: r.ID}
			ttl, err := s.store.LeaseKeepAlive(r.ID)
			if err != nil && !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
				return err
			}
			resp.TTL = ttl
			if err := stream.Send(resp); err != nil {
				return err
			}
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-s.stopping:
			return rpctypes.ErrGRPCStopped
		}
	}
}

// receive reads the requests of a stream until it ends, and says why it did. It
// lets a handler wait for something else at the same time.
func receive[T any](ctx context.Context, recv func() (T, error)) (<-chan T, <-chan error) {
	requests, ended := make(chan T), make(chan error, 1)
	go func() {
		for {
			r, err := recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done(): // also when the handler has returned
				return
			}
		}
	}()
	return requests, ended
}

// LeaseTimeToLive tells what a lease has left, and its keys if it is asked for
// them. A TTL of -1 means that there is no such lease.
func (s *service) LeaseTimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	resp := &pb.LeaseTimeToLiveResponse{Header: s.current(), ID: r.ID}
	lease, left, err := s.store.LeaseTimeToLive(r.ID)
	if errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		resp.TTL = -1
		return resp, nil
	}
	if err != nil {
		return nil, err
	}
	resp.TTL, resp.GrantedTTL = left, lease.TTL
	if r.Keys {
		for _, key := range s.store.State().Attached(r.ID) {
			resp.Keys = append(resp.Keys, []byte(key))
		}
	}
	return resp, nil
}

// LeaseLeases lists the leases.
func (s *service) LeaseLeases(context.Context, *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	state := s.store.State()
	resp := &pb.LeaseLeasesResponse{Header: s.header(state.Revision)}
	for _, lease := range state.Leases() {
		resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: lease.ID})
	}
	return resp, nil
}
