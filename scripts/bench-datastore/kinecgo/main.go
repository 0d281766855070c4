// Command kine serves kine's etcd API over SQLite, for `make bench-datastore`.
//
// It is built twice from this file: in this module with cgo, which is k3s's
// SQLite, and in limpet's module without, which is the SQLite that limpet links.
package main

import (
	"context"
	"flag"
	"fmt"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir := flag.String("dir", "", "`directory` of the database; it exists")
	socket := flag.String("socket", "", "`path` of the unix socket")
	synchronous := flag.String("synchronous", "NORMAL", "SQLite's `mode` of synchronization: NORMAL is k3s's, FULL survives a power cut")
	flag.Parse()
	logrus.SetLevel(logrus.WarnLevel)
	if err := serve(ctx, *dir, *socket, *synchronous); err != nil {
		fmt.Fprintln(os.Stderr, "kine:", err)
		os.Exit(1)
	}
}

// serve is what k3s does, with kine's own parameters but for one.
func serve(ctx context.Context, dir, socket, synchronous string) error {
	params := strings.Replace(sqlite.DefaultParams, "_synchronous=NORMAL", "_synchronous="+synchronous, 1)
	// The database outlives the gRPC server.
	dbCtx, closeDB := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer closeDB()
	_, backend, err := sqlite.New(dbCtx, &wg, &drivers.Config{
		DataSourceName: filepath.Join(dir, "state.db") + "?" + params,
		CompactTimeout: 5 * time.Second, CompactMinRetain: 1000, CompactBatchSize: 1000,
		PollBatchSize: 500,
	})
	if err != nil {
		return fmt.Errorf("open database in %s: %w", dir, err)
	}
	if err := backend.Start(dbCtx); err != nil {
		return fmt.Errorf("start kine: %w", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", socket, err)
	}
	rpc := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Hour, Timeout: 20 * time.Second}),
		grpc.MaxRecvMsgSize(2<<20), grpc.MaxSendMsgSize(math.MaxInt32))
	server.New(backend, "unix", 5*time.Second, "3.6.11").Register(rpc)
	served := make(chan error, 1)
	go func() { served <- rpc.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", socket, err)
	case <-ctx.Done():
		rpc.Stop()
		<-served
		return nil
	}
}
