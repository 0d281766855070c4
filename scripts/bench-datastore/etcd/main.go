// Command etcd serves an embedded etcd of one member, for `make bench-datastore`.
// It has etcd's defaults: every commit is synced to the disk before it is
// acknowledged.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"go.etcd.io/etcd/server/v3/embed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir := flag.String("dir", "", "`directory` of the data; it exists")
	socket := flag.String("socket", "", "`path` of the unix socket")
	flag.Parse()
	if err := serve(ctx, *dir, *socket); err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, dir, socket string) error {
	cfg := embed.NewConfig()
	cfg.Dir = filepath.Join(dir, "default.etcd")
	cfg.LogLevel = "error"
	clients := url.URL{Scheme: "unix", Path: socket}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{clients}, []url.URL{clients}
	// There are no peers, and a listener of its own would only take a port.
	peers := url.URL{Scheme: "unix", Path: socket + ".peer"}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peers}, []url.URL{peers}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("start etcd in %s: %w", dir, err)
	}
	defer etcd.Close()
	select {
	case <-etcd.Server.ReadyNotify():
	case <-etcd.Server.StopNotify():
		return errors.New("etcd stopped while it started")
	case <-ctx.Done():
		return nil
	}
	select {
	case err := <-etcd.Err():
		return fmt.Errorf("serve %s: %w", socket, err)
	case <-ctx.Done():
		return nil
	}
}
