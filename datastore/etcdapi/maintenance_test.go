package etcdapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/internal/testenv"
)

func TestStatusAndAlarm(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	f.put(t, "a", "1")
	st, err := f.Status(soon(t), f.Endpoints()[0])
	if err != nil {
		t.Fatal(err)
	}
	if st.Version != Version || st.Leader != st.Header.MemberId || st.RaftIndex != 2 || st.DbSize <= 0 || st.DbSizeInUse <= 0 ||
		st.DbSizeInUse > st.DbSize || st.RaftTerm == 0 || len(st.Errors) != 0 {
		t.Errorf("status %v", st)
	}
	alarms, err := f.AlarmList(soon(t))
	if err != nil || len(alarms.Alarms) != 0 || alarms.Header.ClusterId == 0 {
		t.Errorf("alarms %v, %v", alarms, err)
	}

	if _, err := f.Defragment(soon(t), f.Endpoints()[0]); err != nil {
		t.Error(err)
	}
}

// The disk really is full, and then is not.
func TestAlarmOfFullDisk(t *testing.T) {
	t.Parallel()
	dir := testenv.SmallDisk(t, 4<<20)
	store := openStore(t, datastore.Options{Path: filepath.Join(dir, "state.db")})
	f := &fixture{store: store, socket: filepath.Join(t.TempDir(), "etcd.sock")}
	start(t, Options{Socket: f.socket, Store: store})
	f.Client = f.dial(t)

	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	value := strings.Repeat("x", 1<<20)
	_, err := f.Put(soon(t), "a", value)
	for range 5 { // what it overwrites frees nothing at once
		if err == nil {
			_, err = f.Put(soon(t), "a", value)
		}
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("got %v", err)
	}
	if alarms, err := f.AlarmList(soon(t)); err != nil || len(alarms.Alarms) != 1 {
		t.Errorf("alarms %v, %v", alarms, err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	f.put(t, "a", "small")
	if alarms, err := f.AlarmList(soon(t)); err != nil || len(alarms.Alarms) != 0 {
		t.Errorf("alarms %v, %v when there is space again", alarms, err)
	}
}

func TestHashKV(t *testing.T) {
	t.Parallel()
	one, two := serve(t, datastore.Options{}, Options{}), serve(t, datastore.Options{HistoryChanges: 1}, Options{})
	hash := func(f *fixture, revision int64) uint32 {
		t.Helper()
		resp, err := f.HashKV(soon(t), f.Endpoints()[0], revision)
		if err != nil || revision > 0 && resp.HashRevision != revision {
			t.Fatalf("%v, %v", resp, err)
		}
		return resp.Hash
	}
	for _, f := range []*fixture{one, two} {
		f.put(t, "a", "1")
		f.put(t, "b", "1")
		f.put(t, "a", "2")
	}
	now := hash(one, 0)
	if hash(two, 0) != now || hash(two, 4) != now {
		t.Error("the same keys have different hashes")
	}
	two.put(t, "a", "3")
	if hash(two, 5) == now || hash(two, 4) != now {
		t.Error("the hash does not follow the revision")
	}
	if _, err := two.Compact(soon(t), 4); err != nil {
		t.Fatal(err)
	}
	resp, err := two.HashKV(soon(t), two.Endpoints()[0], 4)
	if err != nil || resp.Hash != now || resp.CompactRevision != 4 || resp.Header.Revision != 5 {
		t.Errorf("after compaction: %v, %v", resp, err)
	}
	if _, err := two.HashKV(soon(t), two.Endpoints()[0], 3); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("compacted: %v", err)
	}
	maintenance := pb.NewMaintenanceClient(one.conn(t))
	h1, err1 := maintenance.Hash(soon(t), &pb.HashRequest{})
	if _, err := one.Grant(soon(t), 600); err != nil {
		t.Fatal(err)
	}
	h2, err2 := maintenance.Hash(soon(t), &pb.HashRequest{})
	if err := errors.Join(err1, err2); err != nil || h1.Hash == h2.Hash {
		t.Errorf("%v and %v, %v", h1, h2, err)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	data := make([]byte, 5*chunkBytes+512)
	_, _ = rand.Read(data)
	var dir string
	f := serve(t, datastore.Options{}, Options{Snapshot: func(_ context.Context, path string) error {
		dir = filepath.Dir(path)
		return os.WriteFile(path, data, 0o600)
	}})
	resp, err := f.SnapshotWithVersion(soon(t))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Snapshot)
	sum := sha256.Sum256(data)
	if err != nil || !bytes.Equal(got, append(bytes.Clone(data), sum[:]...)) || resp.Version != storageVersion {
		t.Errorf("%d bytes of version %s, %v", len(got), resp.Version, err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) || filepath.Dir(dir) != filepath.Dir(f.store.Path()) {
		t.Errorf("%s: %v", dir, err)
	}
}

func TestSnapshotFails(t *testing.T) {
	t.Parallel()
	read := func(f *fixture) error {
		r, err := f.Snapshot(soon(t))
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.ReadAll(r)
		return err
	}
	if err := read(serve(t, datastore.Options{}, Options{})); status.Code(err) != codes.Unimplemented {
		t.Errorf("without snapshots: %v", err)
	}
	failing := serve(t, datastore.Options{}, Options{Snapshot: func(context.Context, string) error { return errors.New("no luck") }})
	if err := read(failing); err == nil || status.Code(err) != codes.Unknown {
		t.Errorf("got %v", err)
	}
	entries, err := filepath.Glob(failing.store.Path() + ".snapshot-*")
	if err != nil || len(entries) != 0 {
		t.Errorf("left are %v, %v", entries, err)
	}
}

// A process that was killed leaves a snapshot behind.
func TestLeftSnapshotsAreRemoved(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	f.put(t, "a", "1")
	f.server.Stop(soon(t))
	left := f.store.Path() + ".snapshot-123"
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(left, "db"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, Options{Socket: f.socket, Store: f.store})
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Error(err)
	}
}
