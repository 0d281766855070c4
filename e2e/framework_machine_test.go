package e2e

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// machines are whole machines with a service manager, made by scripts/machine, with a
// release server on their network. As nodes they are n1, n2, … of a cluster that has no
// limpet until a test installs it.
type machines struct {
	*cluster
	kind     string // systemd or openrc
	releases *releaseServer
}

// newMachines boots n1 with that service manager (systemd, openrc) and begins to serve
// on the LAN. What has OpenRC has busybox's tools. No more than so many limpets run on
// the machines at a time.
func newMachines(t *testing.T, kind string, limpets int64) *machines {
	t.Helper()
	env.take(t, 2*limpets) // its service manager watches files, too
	name := clusterName(t.Name())
	m := &machines{kind: kind, cluster: &cluster{name: name, dir: filepath.Join(env.clusters, name)}}
	t.Cleanup(func() {
		if t.Failed() {
			r := m.in(context.Background(), node1, "sh", "-c", "journalctl -u limpet -n 40 --no-pager -o cat 2>/dev/null || tail -n 40 /var/log/limpet.log")
			t.Logf("the end of limpet's log on n1:\n%s", r.text())
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := m.script(ctx, "down"); err != nil {
			t.Errorf("end the machines: %v", err)
		}
	})
	m.up(t, node1)
	m.releases = newReleaseServer(t, m.node(t, lan))
	return m
}

func (m *machines) up(t *testing.T, name string) {
	t.Helper()
	rootfs := m.machine(t, "rootfs", m.kind)
	m.machine(t, "machine", "up", name, strings.TrimSpace(rootfs))
}

// machine runs a script of scripts/machine, which must succeed.
func (m *machines) machine(t *testing.T, script string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute) // a root file system is made once
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(env.repo, "scripts", "machine", script), args...)
	cmd.Env = m.environ()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v: %s", script, strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String()
}

// releaseServer serves releases to the LAN, and misbehaves when a test wants it to.
type releaseServer struct {
	url, dir, key string

	mu   sync.Mutex
	hook func(w http.ResponseWriter, path string) (done bool)
}

func newReleaseServer(t *testing.T, at place) *releaseServer {
	t.Helper()
	s := &releaseServer{dir: t.TempDir()}
	var listener net.Listener
	err := at.within(func() (err error) {
		listener, err = net.Listen("tcp", "10.99.0.1:8080")
		return err
	})
	if err != nil {
		t.Fatalf("listen on the LAN: %v", err)
	}
	files := http.FileServer(http.Dir(s.dir))
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		hook := s.hook
		s.mu.Unlock()
		if hook == nil || !hook(w, r.URL.Path) {
			files.ServeHTTP(w, r)
		}
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	s.url = "http://" + listener.Addr().String()
	return s
}

// with answers by hook instead while f runs.
func (s *releaseServer) with(hook func(http.ResponseWriter, string) bool, f func()) {
	set := func(h func(http.ResponseWriter, string) bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hook = h
	}
	set(hook)
	defer set(nil)
	f()
}

// publish makes a release of a binary and points the channel at it.
func (s *releaseServer) publish(t *testing.T, version, binary string) {
	t.Helper()
	key := filepath.Join(s.dir, "..", "signing.key")
	out := filepath.Join(s.dir, version)
	pkg := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", "./scripts/package"}, args...)...)
		cmd.Dir = env.repo
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false")
		text, err := cmd.Output()
		if err != nil {
			exit := (*exec.ExitError)(nil)
			_ = errors.As(err, &exit)
			t.Fatalf("package %v: %v: %s", args, err, exit.Stderr)
		}
		return strings.TrimSpace(string(text))
	}
	s.key = pkg("key", key)
	pkg("release", "-level", "1", "-key", key, "-version", version, "-out", out, "-image", filepath.Join(env.images, "httpd-1.tar"), "amd64="+binary)
	s.point(t, version)
}

// point makes a published release the channel's.
func (s *releaseServer) point(t *testing.T, version string) {
	t.Helper()
	stable := filepath.Join(s.dir, "stable")
	for _, name := range []string{"latest", "install.sh"} {
		data, err := os.ReadFile(filepath.Join(s.dir, version, name))
		if err == nil {
			err = errors.Join(os.MkdirAll(stable, 0o755), os.WriteFile(filepath.Join(stable, name), data, 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// curlPipe is the one command: words are more environment, quoted for a shell.
func (m *machines) curlPipe(ctx context.Context, node string, words ...string) result {
	env := append([]string{"INSTALL_LIMPET_ARTIFACT_URL=" + m.releases.url}, words...)
	get := "curl -sfL "
	if m.kind == "openrc" {
		get = "wget -qO- "
	}
	return m.in(ctx, node, "sh", "-c", get+m.releases.url+"/stable/install.sh | "+strings.Join(env, " ")+" sh -")
}
