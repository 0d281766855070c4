package transfer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	kine "github.com/k3s-io/kine/pkg/server"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/limpetio/limpet/datastore"
)

// entry is what is known of a key.
type entry struct {
	value                string // its SHA-256 if it is long
	mod, create, version int64
	lease, ttl           int64
}

func short(value []byte) string {
	if len(value) <= 64 {
		return string(value)
	}
	return fmt.Sprintf("%d bytes %x", len(value), sha256.Sum256(value))
}

// without leaves out what a comparison cannot expect to be kept.
func without(entries map[string]entry, change func(*entry)) map[string]entry {
	out := map[string]entry{}
	for k, e := range entries {
		change(&e)
		out[k] = e
	}
	return out
}

func compare(t *testing.T, got, want map[string]entry) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	n := 0
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if e, ok := got[k]; (!ok || e != want[k]) && n < 5 {
			t.Errorf("key %q: got %+v (%v), want %+v", k, e, ok, want[k])
			n++
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok && n < 10 {
			t.Errorf("key %q should not be there", k)
			n++
		}
	}
	t.Fatalf("%d keys, want %d", len(got), len(want))
}

func openStore(t *testing.T, path string) *datastore.Store {
	t.Helper()
	s, err := datastore.Open(t.Context(), datastore.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func closeStore(t *testing.T, s *datastore.Store) {
	t.Helper()
	if err := s.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func dumpStore(t *testing.T, s *datastore.Store) map[string]entry {
	t.Helper()
	resp, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]entry{}
	for _, kv := range resp.Kvs {
		e := entry{value: short(kv.Value), mod: kv.ModRevision, create: kv.CreateRevision, version: kv.Version, lease: kv.Lease}
		if kv.Lease != 0 {
			lease, ok := s.State().Lease(kv.Lease)
			if !ok {
				t.Fatalf("key %q has lease %d, which does not exist", kv.Key, kv.Lease)
			}
			e.ttl = lease.TTL
		}
		out[string(kv.Key)] = e
	}
	return out
}

// kineDB is a kine database that is being served.
type kineDB struct {
	kine.Backend
	close func()
}

func openKineDB(t testing.TB, path string) *kineDB {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	backend, dialect, err := sqlite.NewVariant(ctx, &wg, "sqlite3", &drivers.Config{
		DataSourceName:       path + "?_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate&_kine_disable_startup_vacuum=1",
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 4},
		CompactTimeout:       5 * time.Second, CompactMinRetain: 10, CompactBatchSize: 1000, PollBatchSize: 500,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := backend.Start(ctx); err != nil {
		t.Fatal(err)
	}
	once := sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		_ = dialect.DB.Close()
	})
	t.Cleanup(once)
	return &kineDB{Backend: backend, close: once}
}

func dumpKine(t testing.TB, k kine.Backend) (map[string]entry, int64) {
	t.Helper()
	ctx := context.Background()
	revision, kvs, err := k.List(ctx, "", "", 0, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]entry{}
	for _, kv := range kvs {
		if kv.Key != kineCompact {
			out[kv.Key] = entry{value: short(kv.Value), mod: kv.ModRevision, create: kv.CreateRevision, ttl: kv.Lease}
		}
	}
	return out, revision
}

// big is a value of 1 MiB that no file system or database makes smaller.
func big() []byte {
	b := make([]byte, 0, 1<<20)
	for sum := sha256.Sum256(nil); len(b) < 1<<20; sum = sha256.Sum256(sum[:]) {
		b = append(b, sum[:]...)
	}
	return b
}

// oddKeys are keys that Kubernetes has none of, but others may.
func oddKeys() []string {
	return []string{"no/slash", "\xff\xfe\x00binary\x00", "\x01", "/uni/ü/\xc3", "/trailing\x00", "%_'\"\\", "zzz"}
}

// fillKine writes what a kine database can have.
func fillKine(t testing.TB, k *kineDB, keys int) {
	t.Helper()
	ctx := context.Background()
	create := func(key string, value []byte, ttl int64) int64 {
		rev, err := k.Create(ctx, key, value, ttl)
		if err != nil {
			t.Fatalf("create %q: %v", key, err)
		}
		return rev
	}
	for i := range keys {
		ttl := int64(0)
		if i%4 == 0 {
			ttl = 36000
		}
		create(fmt.Sprintf("/registry/pods/p%05d", i), fmt.Appendf(nil, "value %d", i), ttl)
	}
	create("/registry/empty", nil, 0)
	create("/registry/big", big(), 0)
	create("/registry/masterleases/10.0.0.1", []byte("lease"), 15000)
	for _, key := range oddKeys() {
		create(key, []byte(key), 0)
	}
	create(kineCompactAPI, joinVersion(7, []byte("123")), 0)
	rev := create("/registry/changed", []byte("1"), 0)
	for i := range 3 {
		var ok bool
		var err error
		if rev, _, ok, err = k.Update(ctx, "/registry/changed", fmt.Appendf(nil, "%d", i+2), rev, 0); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	remove := func(key string) {
		if _, _, ok, err := k.Delete(ctx, key, 0); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	create("/registry/again", []byte("first"), 0)
	remove("/registry/again")
	create("/registry/again", []byte("second"), 0)
	create("/registry/gone", []byte("x"), 0)
	remove("/registry/gone") // the newest row is a tombstone
}

// TestKineProcess is not a test: it is k3s for other tests, in a process of its
// own, as SQLite's locks are those of a process.
func TestKineProcess(t *testing.T) {
	path := os.Getenv("TRANSFER_TEST_KINE")
	if path == "" {
		t.Skip("run by other tests")
	}
	k := openKineDB(t, path)
	if os.Getenv("TRANSFER_TEST_FILL") != "" {
		fillKine(t, k, 100)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // until the parent closes it, or kills
}

// startKine runs kine on a database in another process. kill ends it as a power
// cut does to a process, and leaves its WAL.
func startKine(t *testing.T, path string, fill bool) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKineProcess$", "-test.v")
	cmd.Env = append(os.Environ(), "TRANSFER_TEST_KINE="+path)
	if fill {
		cmd.Env = append(cmd.Env, "TRANSFER_TEST_FILL=1")
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	lines, log := bufio.NewScanner(out), &bytes.Buffer{}
	for lines.Scan() {
		fmt.Fprintln(log, lines.Text())
		if lines.Text() == "ready" {
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return kill
		}
	}
	t.Fatalf("kine did not start:\n%s", log)
	return nil
}

// files are the names in a directory, and what they contain.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		content := "directory"
		if e.Type().IsRegular() {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			content = short(b)
		}
		out[e.Name()] = content
	}
	return out
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
}
