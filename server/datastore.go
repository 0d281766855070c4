package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	kine "github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

const (
	// sqliteParams: FULL makes every commit durable before it is acknowledged,
	// which k3s's NORMAL does not; kine's VACUUM of the whole file at every
	// start is switched off, since it rewrites flash and needs twice the space.
	sqliteParams = "?_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate&_kine_disable_startup_vacuum=1"
	// emulatedEtcd is the etcd version that the façade claims. 3.6 lets the
	// apiserver serve consistent reads from its watch cache.
	emulatedEtcd = "3.6.11"
	// progressInterval is how often idle watches hear of the current revision.
	progressInterval = 5 * time.Second
	maxRequestBytes  = 2 << 20
	maxSendBytes     = 1<<31 - 1
)

// datastore serves the etcd API over SQLite on a unix socket that only root can open.
type datastore struct {
	file   string // the SQLite database
	socket string
}

func (d *datastore) Name() string { return "datastore" }

// Endpoint is the address for the apiserver's --etcd-servers.
func (d *datastore) Endpoint() string { return "unix://" + d.socket }

func (d *datastore) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(filepath.Dir(d.file), 0o700); err != nil {
		return fmt.Errorf("create datastore directory: %w", err)
	}
	// The database outlives the gRPC server, so that requests in flight can finish.
	dbCtx, closeDB := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer closeDB()
	_, backend, err := sqlite.New(dbCtx, &wg, &drivers.Config{
		DataSourceName:       d.file + sqliteParams,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 4, MaxIdleTime: 2 * time.Minute},
		CompactTimeout:       5 * time.Second, CompactMinRetain: 1000, CompactBatchSize: 1000,
		PollBatchSize: 500,
	})
	if err != nil {
		return fmt.Errorf("open %s: %w", d.file, err)
	}
	if err := os.Chmod(d.file, 0o600); err != nil {
		return fmt.Errorf("protect datastore: %w", err)
	}
	if err := backend.Start(dbCtx); err != nil {
		return fmt.Errorf("start datastore on %s: %w", d.file, err)
	}
	listener, err := listenPrivate(d.socket)
	if err != nil {
		return err
	}
	rpc := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Hour, Timeout: 20 * time.Second}),
		grpc.MaxRecvMsgSize(maxRequestBytes), grpc.MaxSendMsgSize(maxSendBytes))
	kine.New(backend, "unix", progressInterval, emulatedEtcd).Register(rpc)

	served := make(chan error, 1)
	go func() { served <- rpc.Serve(listener) }()
	ready()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", d.socket, err)
	case <-ctx.Done():
		rpc.Stop() // its only client, the apiserver, has stopped before
		<-served   //nolint:errcheck // that it was stopped
		return nil
	}
}

// listenPrivate listens on a unix socket that only its owner can connect to. A
// socket left behind by a process that is gone is replaced; one that answers is not.
func listenPrivate(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("create directory of socket %s: %w", path, err)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("listen on %s: another process is serving this socket; is limpet running already?", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("protect socket: %w", err)
	}
	return l, nil
}
