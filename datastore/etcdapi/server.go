// Package etcdapi serves a datastore as etcd's gRPC API (version 3) on a unix
// socket: for the apiserver, and for whoever speaks to etcd, such as etcdctl.
//
// It translates and nothing more: what a request means is the store's business.
// What it answers, and with which errors, is etcd's; kine's server is underneath
// for the calls that make no sense for a single member. What it adds itself are
// the watch streams.
//
// What holds:
//
//   - A watch gets every event once and in order. A client that does not read
//     holds up its own stream only: what it has not seen waits in the store.
//   - The revision in a header is never ahead of events that the same watch has
//     not been sent, except in the answer to its creation, as in etcd.
//   - Nothing runs while nothing happens: there is one timer, for progress
//     notifications, and it runs only after a change.
//   - Only the owner of the socket can connect; there is no other authentication.
package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"runtime/debug"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/limpetio/limpet/datastore"
)

const (
	// DefaultProgressInterval is that of Options.ProgressInterval.
	DefaultProgressInterval = 5 * time.Second

	// maxRequestBytes is etcd's limit for a request that writes. gRPC's is above
	// it, so that what is too large by little gets etcd's error.
	maxRequestBytes  = 3 << 19 // 1.5 MiB
	maxReceivedBytes = maxRequestBytes + 512<<10
)

// Options of a server.
type Options struct {
	// Socket is the path that the server tells to clients that ask for members.
	Socket string
	Store  *datastore.Store
	Logger *slog.Logger // nil is the store's
	// ProgressInterval is how long after a change watches that asked for it hear
	// of the current revision, if they were not sent events meanwhile.
	ProgressInterval time.Duration
	// Snapshot writes a snapshot in etcd's format to a path, which does not
	// exist. Without it the call is not implemented.
	Snapshot func(ctx context.Context, path string) error
}

// Server is a gRPC server for one store.
type Server struct {
	rpc     *grpc.Server
	health  *health.Server
	service *service
	stop    sync.Once
}

// New makes a server. A store has one server at a time.
func New(opts Options) *Server {
	if opts.Logger == nil {
		opts.Logger = opts.Store.Logger()
	}
	if opts.ProgressInterval <= 0 {
		opts.ProgressInterval = DefaultProgressInterval
	}
	s := &Server{service: newService(opts), health: health.NewServer()}
	s.rpc = grpc.NewServer(s.options()...)
	pb.RegisterKVServer(s.rpc, s.service)
	pb.RegisterWatchServer(s.rpc, s.service)
	pb.RegisterLeaseServer(s.rpc, s.service)
	pb.RegisterClusterServer(s.rpc, s.service)
	pb.RegisterMaintenanceServer(s.rpc, s.service)
	grpc_health_v1.RegisterHealthServer(s.rpc, s.health)
	opts.Store.OnPublish(s.service.progress.published)
	return s
}

// options leaves gRPC's buffers and windows as they are: it shares buffers
// between connections by itself, and neither smaller ones nor fixed windows made
// a difference that could be measured.
func (s *Server) options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		// As rare as etcd's: a peer on the same machine cannot vanish unnoticed.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Hour, Timeout: 20 * time.Second}),
		grpc.MaxRecvMsgSize(maxReceivedBytes), grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.WaitForHandlers(true), // the store is closed after Stop
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
			defer s.service.recovered(info.FullMethod, &err)
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer s.service.recovered(info.FullMethod, &err)
			return next(srv, stream)
		}),
	}
}

// recovered turns a panic of a handler into an error for its client: all others
// go on.
func (s *service) recovered(method string, err *error) {
	if p := recover(); p != nil {
		s.logger.Error("a request to the datastore panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "limpet: internal error in "+method+": see the server's log")
	}
}

// Serve answers on a listener until Stop, and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.rpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve the datastore on %s: %w", l.Addr(), err)
	}
	return nil
}

// Stop ends all streams and waits for the requests under way; those that are not
// done when ctx is are cut off. The store is not used after it.
func (s *Server) Stop(ctx context.Context) {
	s.stop.Do(func() {
		s.health.Shutdown()
		close(s.service.stopping)
	})
	graceful := make(chan struct{})
	go func() {
		defer close(graceful)
		s.rpc.GracefulStop()
	}()
	select {
	case <-graceful:
	case <-ctx.Done():
		s.rpc.Stop()
		<-graceful
	}
	s.service.store.OnPublish(nil)
	s.service.progress.stop()
}
