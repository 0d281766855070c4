package etcdapi

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpetio/limpet/datastore"
)

// etcdctl runs Debian's etcdctl (package etcd-client), which is of etcd 3.4.
type etcdctl struct {
	t      *testing.T
	path   string
	socket string
}

func newEtcdctl(t *testing.T, f *fixture) *etcdctl {
	t.Helper()
	path, err := exec.LookPath("etcdctl")
	if err != nil {
		t.Fatalf("%v: install Debian's package etcd-client, or run scripts/deps", err)
	}
	return &etcdctl{t, path, f.socket}
}

func (e *etcdctl) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, e.path, append([]string{"--endpoints=unix://" + e.socket}, args...)...)
	cmd.Env = append(os.Environ(), "ETCDCTL_API=3")
	return cmd
}

// run returns what the command prints.
func (e *etcdctl) run(stdin string, args ...string) string {
	e.t.Helper()
	cmd := e.command(within(e.t, testTime), args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		e.t.Fatalf("etcdctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// want compares what a command prints.
func (e *etcdctl) want(want string, args ...string) {
	e.t.Helper()
	if got := e.run("", args...); got != want {
		e.t.Errorf("etcdctl %s printed %q, want %q", strings.Join(args, " "), got, want)
	}
}

func TestEtcdctl(t *testing.T) {
	t.Parallel()
	snapshot := make([]byte, 3*chunkBytes)
	_, _ = rand.Read(snapshot)
	f := serve(t, datastore.Options{}, Options{Snapshot: func(_ context.Context, path string) error {
		return os.WriteFile(path, snapshot, 0o600)
	}})
	ctl := newEtcdctl(t, f)

	ctl.want("OK\n", "put", "a", "1")
	ctl.want("OK\na\n1\n", "put", "--prev-kv", "a", "2")
	if got := ctl.run("", "get", "a"); got != "a\n2\n" {
		t.Errorf("get printed %q", got)
	}
	ctl.want("a\n1\n", "get", "--rev=2", "a")
	ctl.want("OK\n", "put", "b", "3")
	ctl.want("b\n3\na\n2\n", "get", "--prefix", "--order=DESCEND", "--sort-by=KEY", "")
	ctl.want("1\n", "del", "b")
	if got := ctl.run("mod(\"a\") = \"3\"\nval(\"a\") = \"2\"\n\nput a 4\nget a\n\nget a\n\n", "txn"); !strings.HasPrefix(got, "SUCCESS\n") || !strings.Contains(got, "a\n4\n") {
		t.Errorf("txn printed %q", got)
	}
	if got := ctl.run("", "endpoint", "status", "--write-out=json"); !strings.Contains(got, `"version":"`+Version+`"`) || !strings.Contains(got, `"dbSize":`) {
		t.Errorf("endpoint status printed %q", got)
	}
	if got := ctl.run("", "endpoint", "health", "--cluster"); !strings.Contains(got, "is healthy") {
		t.Errorf("endpoint health printed %q", got)
	}
	for _, args := range [][]string{{"endpoint", "hashkv"}, {"member", "list"}, {"alarm", "list"}, {"alarm", "disarm"}, {"compact", "4"}, {"defrag"}} {
		ctl.run("", args...)
	}

	granted := ctl.run("", "lease", "grant", "600")
	id := strings.Fields(granted)[1]
	ctl.want("OK\n", "put", "--lease="+id, "l", "1")
	if got := ctl.run("", "lease", "timetolive", "--keys", id); !strings.Contains(got, "attached keys([l])") {
		t.Errorf("lease timetolive printed %q", got)
	}
	ctl.want("lease "+id+" keepalived with TTL(600)\n", "lease", "keep-alive", "--once", id)
	if got := ctl.run("", "lease", "list"); !strings.Contains(got, id) {
		t.Errorf("lease list printed %q", got)
	}
	ctl.want("lease "+id+" revoked\n", "lease", "revoke", id)
	ctl.want("", "get", "l")

	file := filepath.Join(t.TempDir(), "snapshot.db")
	ctl.run("", "snapshot", "save", file)
	saved, err := os.ReadFile(file)
	sum := sha256.Sum256(snapshot)
	if err != nil || !bytes.Equal(saved, append(snapshot, sum[:]...)) {
		t.Errorf("snapshot save wrote %d bytes, %v", len(saved), err)
	}
}

func TestEtcdctlWatchLockElect(t *testing.T) {
	t.Parallel()
	f := serve(t, datastore.Options{}, Options{})
	ctl := newEtcdctl(t, f)
	f.put(t, "a", "1")
	lines := ctl.follow("watch", "--rev=2", "--prev-kv", "--prefix", "a")
	lines.want("PUT", "a", "1")
	f.put(t, "a", "2")
	lines.want("PUT", "a", "1", "a", "2")
	f.del(t, "a")
	lines.want("DELETE", "a", "2", "a", "")

	lock := ctl.run("", "lock", "name", "--", "sh", "-c", "echo got $ETCD_LOCK_KEY")
	if !strings.HasPrefix(lock, "got name/") {
		t.Errorf("lock printed %q", lock)
	}
	leader := ctl.follow("elect", "president", "someone")
	if key := leader.next(); !strings.HasPrefix(key, "president/") {
		t.Errorf("elect printed %q", key)
	}
	leader.want("someone")
	observer := ctl.follow("elect", "--listen", "president")
	observer.next()
	observer.want("someone")
}

// etcd's own load test takes a minute. Its verdict is on this machine's disk.
func TestEtcdctlCheckPerf(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes a minute")
	}
	f := serve(t, datastore.Options{}, Options{})
	ctl := newEtcdctl(t, f)
	out, err := ctl.command(within(t, 2*testTime), "check", "perf", "--load=s", "--auto-compact", "--auto-defrag").CombinedOutput()
	t.Logf("%v\n%s", err, lastLines(out, 6))
	if !bytes.Contains(out, []byte("Throughput")) || bytes.Contains(out, []byte("too many errors")) {
		t.Errorf("check perf did not get through: %v", err)
	}
}

func lastLines(out []byte, n int) []byte {
	lines := bytes.Split(bytes.TrimSpace(bytes.ReplaceAll(out, []byte("\r"), []byte("\n"))), []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-n):], []byte("\n"))
}
