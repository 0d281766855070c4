package etcdapi

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/limpetio/limpet/datastore"
)

func TestListenIsPrivate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "run", "etcd.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, mode := range map[string]os.FileMode{path: 0o600 | os.ModeSocket, filepath.Dir(path): 0o700 | os.ModeDir} {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), mode)
		}
	}
}

func TestListenReplacesOnlyWhatIsStale(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	listen := func(name string) (net.Listener, error) { return Listen(filepath.Join(dir, name)) }

	stale, err := listen("stale")
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = stale.Close()
	again, err := listen("stale")
	if err != nil {
		t.Fatalf("a stale socket was not replaced: %v", err)
	}
	defer again.Close()
	if _, err := listen("stale"); err == nil || !strings.Contains(err.Error(), "is limpet running already?") {
		t.Errorf("a socket that answers: got %v", err)
	}

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen("file"); err == nil {
		t.Error("a file was taken for a socket")
	}
	if b, _ := os.ReadFile(file); string(b) != "precious" {
		t.Errorf("the file was changed: %q", b)
	}
}

func TestIDsStayTheSame(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	first, err := f.Get(soon(t), "a")
	if err != nil {
		t.Fatal(err)
	}
	if h := first.Header; h.ClusterId == 0 || h.MemberId == 0 || h.ClusterId == h.MemberId || h.RaftTerm == 0 || h.Revision != 1 {
		t.Errorf("header %v", h)
	}
	f.server.Stop(soon(t))
	start(t, Options{Socket: f.socket + "2", Store: f.store})
	f.socket += "2"
	again, err := f.dial(t).Get(soon(t), "a")
	if err != nil {
		t.Fatal(err)
	}
	if again.Header.ClusterId != first.Header.ClusterId || again.Header.MemberId != first.Header.MemberId {
		t.Errorf("header %v after a restart, %v before", again.Header, first.Header)
	}
	members, err := f.dial(t).MemberList(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(members.Members) != 1 || members.Members[0].ID != first.Header.MemberId || members.Members[0].ClientURLs[0] != "unix://"+f.socket {
		t.Errorf("members %v", members.Members)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	value := strings.Repeat("x", maxRequestBytes)
	if _, err := f.Put(soon(t), "a", value); !errors.Is(err, rpctypes.ErrRequestTooLarge) {
		t.Errorf("put: got %v, want %v", err, rpctypes.ErrRequestTooLarge)
	}
	if _, err := f.Txn(soon(t)).Then(clientv3.OpPut("a", value)).Commit(); !errors.Is(err, rpctypes.ErrRequestTooLarge) {
		t.Errorf("txn: got %v, want %v", err, rpctypes.ErrRequestTooLarge)
	}
	_, err := pb.NewKVClient(f.conn(t)).Put(soon(t), &pb.PutRequest{Key: []byte("a"), Value: []byte(value + value)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("beyond gRPC's limit: got %v", err)
	}
	// As large as it may be, and an answer that is larger than a request may be.
	for _, key := range []string{"a", "b", "c", "d"} {
		f.put(t, key, value[100:])
	}
	resp, err := f.Get(soon(t), "a", clientv3.WithFromKey())
	if err != nil || len(resp.Kvs) != 4 || len(resp.Kvs[3].Value) != len(value)-100 {
		t.Errorf("got %d keys, %v", len(resp.Kvs), err)
	}
}

func TestPanicIsAnError(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{Snapshot: func(context.Context, string) error { panic("a mistake") }})
	r, err := f.Snapshot(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Read(make([]byte, 1)); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "a mistake") {
		t.Errorf("got %v", err)
	}
	f.put(t, "a", "goes on")

	unary := func() (err error) {
		defer f.server.service.recovered("method", &err)
		panic("a mistake")
	}
	if err := unary(); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
}

// A watch and a lease's stream never end by themselves.
func TestStopEndsStreams(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	w := f.rawWatch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a")})
	leases, err := pb.NewLeaseClient(f.conn(t)).LeaseKeepAlive(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := leases.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := leases.Recv(); err != nil {
		t.Fatal(err)
	}
	health, err := grpc_health_v1.NewHealthClient(f.conn(t)).Check(soon(t), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || health.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", health, err)
	}

	f.server.Stop(soon(t))
	if _, err := w.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("watch: %v", err)
	}
	if _, err := leases.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("leases: %v", err)
	}
	if n := f.store.Watchers(); n != 0 {
		t.Errorf("%d watchers are left", n)
	}
}

// A client that does not read cannot hold up the end.
func TestStopCutsOff(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	w := f.rawWatch(t)
	w.create(&pb.WatchCreateRequest{Key: []byte("a")})
	value := strings.Repeat("x", 1<<20)
	for range 20 { // more than the windows and buffers take
		f.put(t, "a", value)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		f.server.Stop(ctx)
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-soon(t).Done():
		t.Fatal("the server does not stop")
	}
}
