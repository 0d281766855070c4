package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// ours is the key of limpet's datastore.
const ours = "limpet"

// storeKind is a server as scripts/bench/datastore builds it.
type storeKind struct {
	key, title string
	program    string
	args       []string
}

func storeKinds() []storeKind {
	return []storeKind{
		{key: ours, title: "limpet FULL", program: "bench-store-limpet"},
		{key: "etcd", title: "etcd fsync", program: "bench-store-etcd"},
		{key: "kine-cgo", title: "kine cgo NORMAL", program: "bench-store-kinecgo", args: []string{"-synchronous", "NORMAL"}},
		{key: "kine-full", title: "kine modernc FULL", program: "bench-store-kine", args: []string{"-synchronous", "FULL"}},
	}
}

// storeServer is a running server and the clients that it has.
type storeServer struct {
	storeKind
	pid   int
	conns []*grpc.ClientConn // one for each client
	kv    []pb.KVClient

	created   atomic.Int64       // keys made so far, beside those that are listed
	updated   []int              // by each client
	pages     []*pb.RangeRequest // each client's next page
	revisions []int64            // of the keys that are updated; each is used by one client at a time
	watchers  *fanOut            // opened when they are first needed
}

const (
	connectLimit = 30 * time.Second
	stopLimit    = 20 * time.Second
)

// start runs all servers. stop ends them.
func (b *storeBench) start(ctx context.Context) (servers []*storeServer, stop func() error, err error) {
	sockets, err := os.MkdirTemp("", "bench-datastore-") // short: a socket's path has 107 letters at most
	if err != nil {
		return nil, nil, err
	}
	var stops []func() error
	stop = func() error {
		var errs []error
		for _, fn := range stops {
			errs = append(errs, fn())
		}
		return errors.Join(append(errs, os.RemoveAll(sockets))...)
	}
	for _, kind := range storeKinds() {
		if b.servers != "" && !slices.Contains(strings.Split(b.servers, ","), kind.key) {
			continue
		}
		if kind.key == ours && b.profile != "" {
			kind.args = []string{"-pprof", b.profile}
		}
		s, end, err := b.launch(ctx, kind, filepath.Join(sockets, kind.key))
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("%s: %w", kind.title, err), stop())
		}
		stops = append(stops, end)
		servers = append(servers, s)
	}
	if len(servers) == 0 {
		return nil, nil, errors.Join(fmt.Errorf("-servers %s: there is none of that name", b.servers), stop())
	}
	return servers, stop, nil
}

// launch starts a server and connects its clients.
func (b *storeBench) launch(ctx context.Context, kind storeKind, socket string) (_ *storeServer, stop func() error, err error) {
	dir, err := filepath.Abs(filepath.Join(b.dir, kind.key))
	if err != nil {
		return nil, nil, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	log, err := os.Create(dir + ".log")
	if err != nil {
		return nil, nil, err
	}
	defer log.Close() // the server has its own descriptor
	cmd := exec.Command(filepath.Join(b.programs, kind.program), append([]string{"-dir", dir, "-socket", socket}, kind.args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // nobody else ends it if this program dies
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	s := &storeServer{storeKind: kind, pid: cmd.Process.Pid, revisions: make([]int64, updatedKeys), pages: make([]*pb.RangeRequest, manyClients), updated: make([]int, manyClients)}
	stop = func() error {
		s.disconnect()
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		select {
		case <-exited: //nolint:errcheck // whatever it says now: it has been measured
			return nil
		case <-time.After(stopLimit):
			return errors.Join(fmt.Errorf("%s did not stop within %s", kind.title, stopLimit), cmd.Process.Kill())
		}
	}
	ready, cancel := context.WithTimeoutCause(ctx, connectLimit, fmt.Errorf("it did not answer within %s", startLimit))
	defer cancel()
	answered := make(chan error, 1)
	go func() { answered <- s.connect(ready, socket) }()
	select {
	case err = <-answered:
	case err = <-exited:
		err = fmt.Errorf("it ended while it started: %w", errors.Join(err, errors.New("see its log")))
		exited <- nil
	}
	if err != nil {
		text, _ := os.ReadFile(dir + ".log")
		return nil, nil, errors.Join(fmt.Errorf("start: %w\n%s", err, text), stop())
	}
	return s, stop, nil
}

// connect opens the clients' connections: each has its own, as the apiserver
// has one for each resource.
func (s *storeServer) connect(ctx context.Context, socket string) error {
	for range manyClients {
		conn, err := grpc.NewClient("unix://"+socket,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1, MaxDelay: time.Second}}))
		if err != nil {
			return err
		}
		s.conns, s.kv = append(s.conns, conn), append(s.kv, pb.NewKVClient(conn))
		_, err = s.kv[len(s.kv)-1].Range(ctx, &pb.RangeRequest{Key: []byte("/registry/health")}, grpc.WaitForReady(true))
		if err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
	}
	return nil
}

func (s *storeServer) disconnect() {
	for _, conn := range s.conns {
		_ = conn.Close() // nothing depends on it
	}
}
