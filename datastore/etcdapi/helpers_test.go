package etcdapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/limpetio/limpet/datastore"
)

// fixture is a store with a server and a client.
type fixture struct {
	*clientv3.Client
	store  *datastore.Store
	server *Server
	socket string
}

// serve starts a server on a store of its own.
func serve(t testing.TB, storeOpts datastore.Options, opts Options) *fixture {
	t.Helper()
	f := &fixture{socket: filepath.Join(t.TempDir(), "run", "etcd.sock")}
	storeOpts.Path = filepath.Join(t.TempDir(), "state.db")
	f.store = openStore(t, storeOpts)
	opts.Store, opts.Socket = f.store, f.socket
	f.server = start(t, opts)
	f.Client = f.dial(t)
	return f
}

func openStore(t testing.TB, opts datastore.Options) *datastore.Store {
	t.Helper()
	store, err := datastore.Open(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return store
}

func start(t testing.TB, opts Options) *Server {
	t.Helper()
	l, err := Listen(opts.Socket)
	if err != nil {
		t.Fatal(err)
	}
	server := New(opts)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		server.Stop(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return server
}

func (f *fixture) dial(t testing.TB) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + f.socket}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// conn is a connection without etcd's client, which hides what is sent.
func (f *fixture) conn(t testing.TB, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient("unix://"+f.socket, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// within is a context for something that takes no time if it works.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func soon(t testing.TB) context.Context { return within(t, testTime) }

func (f *fixture) put(t testing.TB, key, value string, opts ...clientv3.OpOption) int64 {
	t.Helper()
	resp, err := f.Put(soon(t), key, value, opts...)
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return resp.Header.Revision
}

func (f *fixture) del(t testing.TB, key string) int64 {
	t.Helper()
	resp, err := f.Delete(soon(t), key)
	if err != nil {
		t.Fatalf("delete %s: %v", key, err)
	}
	return resp.Header.Revision
}

// fill puts a number of values at the keys PREFIX0 to PREFIX6, each at a revision
// of its own, and returns the last one.
func (f *fixture) fill(t testing.TB, prefix string, n int, value string) int64 {
	t.Helper()
	ctx := soon(t)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 32 { // they share commits
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if _, err := f.Put(ctx, fmt.Sprint(prefix, i%7), value); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return f.store.State().Revision
}

// rawWatch is a watch stream as it is on the wire.
type rawWatch struct {
	pb.Watch_WatchClient
	t testing.TB
}

func (f *fixture) rawWatch(t testing.TB) *rawWatch {
	t.Helper()
	stream, err := pb.NewWatchClient(f.conn(t)).Watch(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	return &rawWatch{stream, t}
}

func (w *rawWatch) create(r *pb.WatchCreateRequest) *pb.WatchResponse {
	w.t.Helper()
	w.request(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
	resp := w.next()
	if !resp.Created {
		w.t.Fatalf("got %v, want that the watch was created", resp)
	}
	return resp
}

func (w *rawWatch) cancel(id int64) {
	w.t.Helper()
	w.request(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}})
}

func (w *rawWatch) askProgress() {
	w.t.Helper()
	w.request(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

func (w *rawWatch) request(r *pb.WatchRequest) {
	w.t.Helper()
	if err := w.Send(r); err != nil {
		w.t.Fatal(err)
	}
}

func (w *rawWatch) next() *pb.WatchResponse {
	w.t.Helper()
	resp, err := w.Recv()
	if err != nil {
		if errors.Is(err, io.EOF) {
			w.t.Fatal("the stream has ended")
		}
		w.t.Fatal(err)
	}
	return resp
}

// want reads a response and compares its events, written as "PUT key" or
// "DELETE key", and its watch.
func (w *rawWatch) want(id int64, events ...string) *pb.WatchResponse {
	w.t.Helper()
	resp := w.next()
	got := texts(resp.Events)
	if resp.WatchId != id || resp.Canceled || len(got) != len(events) {
		w.t.Fatalf("got %v, want %v of watch %d", resp, events, id)
	}
	for i := range got {
		if got[i] != events[i] {
			w.t.Fatalf("got %v, want %v", got, events)
		}
	}
	return resp
}

func texts(events []*mvccpb.Event) []string {
	list := make([]string, len(events))
	for i, e := range events {
		list[i] = e.Type.String() + " " + string(e.Kv.Key)
	}
	return list
}

// testTime is how long a program may take that takes no time if it works.
const testTime = time.Minute

// lines are what a command prints that does not end by itself.
type lines struct {
	t *testing.T
	*bufio.Scanner
}

func (e *etcdctl) follow(args ...string) *lines {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTime)
	cmd := e.command(ctx, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed
	})
	return &lines{e.t, bufio.NewScanner(out)}
}

func (l *lines) next() string {
	l.t.Helper()
	if !l.Scan() {
		l.t.Fatalf("the command has ended: %v", l.Err())
	}
	return l.Text()
}

func (l *lines) want(want ...string) {
	l.t.Helper()
	for _, w := range want {
		if got := l.next(); got != w {
			l.t.Fatalf("got line %q, want %q", got, w)
		}
	}
}
