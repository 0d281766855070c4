// Command limpet serves limpet's datastore alone, for `make bench-datastore`:
// the store and the API as the server has them, without a cluster around them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/datastore/etcdapi"
)

func main() {
	dir := flag.String("dir", "", "`directory` of the database; it exists")
	socket := flag.String("socket", "", "`path` of the unix socket")
	profile := flag.String("pprof", "", "`address` that serves profiles: 127.0.0.1:6060")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := serve(ctx, *dir, *socket, *profile)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "limpet:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, dir, socket, profile string) (err error) {
	if profile != "" {
		l, err := net.Listen("tcp", profile)
		if err != nil {
			return fmt.Errorf("serve profiles: %w", err)
		}
		go func() { _ = http.Serve(l, profiles()) }() // until the end of the process
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	store, err := datastore.Open(ctx, datastore.Options{Path: filepath.Join(dir, "state.db"), Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close(context.Background())) }()
	listener, err := etcdapi.Listen(socket)
	if err != nil {
		return err
	}
	server := etcdapi.New(etcdapi.Options{Socket: socket, Store: store, Logger: logger})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err = <-served:
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	server.Stop(stopping)
	return err
}

func profiles() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
