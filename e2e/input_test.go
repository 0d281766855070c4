package e2e

import (
	"os"
	"strings"
	"testing"
	"time"
)

// spareNode boots a node on the shared cluster's network on which no limpet
// runs: the one that it was defined with has a wrong flag.
func spareNode(t *testing.T, s *space) string {
	t.Helper()
	const name = "n2"
	s.must(s.ctx, t, "add", name, "server", "--clustr-cidr", "10.0.0.0/16")
	return name
}

// wrongInput is a command that must be refused.
type wrongInput struct {
	name string
	cmd  string   // words; DATA is a data directory of its own
	code int      // exit status: 2 for wrong flags and configuration, 1 for trouble with the machine
	want []string // what the message says
}

// TestWrongInput gives limpet what it cannot work with. It must say what is
// wrong and what to do, and leave nothing behind.
func TestWrongInput(t *testing.T) {
	s := sharedSpace(t, 4*time.Minute)
	node := spareNode(t, s)
	for file, text := range map[string]string{
		"/srv/unknown-key.yaml": "node-name: shop\nclustr-cidr: 10.1.0.0/16\n",
		"/srv/not-yaml.yaml":    "node-name: [shop\n",
		"/srv/good.yaml":        "node-name: shop\ncluster-cidr: 10.1.0.0/16\n",
		"/srv/a-file":           "x",
	} {
		s.drop(t, node, file, []byte(text))
	}
	for _, c := range []wrongInput{
		{"unknown flag", "server --data-dir DATA --cluster-cdir 10.0.0.0/16", 2, []string{"--cluster-cdir", "did you mean --cluster-cidr?"}},
		{"unknown command", "servr", 2, []string{"servr", "server"}},
		{"unknown key", "server --data-dir DATA --config /srv/unknown-key.yaml", 2, []string{"/srv/unknown-key.yaml:2", "clustr-cidr", "did you mean cluster-cidr?"}},
		{"no YAML", "server --data-dir DATA --config /srv/not-yaml.yaml", 2, []string{"/srv/not-yaml.yaml"}},
		{"missing config file", "server --data-dir DATA --config /srv/missing.yaml", 2, []string{"/srv/missing.yaml"}},
		{"bad CIDR", "server --data-dir DATA --cluster-cidr 10.42.0.0/33", 2, []string{"--cluster-cidr", "10.42.0.0/33"}},
		{"overlapping ranges", "server --data-dir DATA --cluster-cidr 10.43.0.0/16", 2, []string{"overlap", "10.43.0.0/16"}},
		{"two problems", "server --data-dir DATA --https-listen-port 99999 --flannel-backend teleport", 2, []string{"99999", "teleport", "vxlan"}},
		{"config check, wrong", "config check --config /srv/unknown-key.yaml", 2, []string{"/srv/unknown-key.yaml:2", "did you mean cluster-cidr?"}},
		{"config check, argument", "config check --data-dir DATA --kubelet-arg no-such-flag=1", 2, []string{"kubelet", "no-such-flag"}},
		{"config check, agent's argument", "config check --for agent --server https://10.0.0.5:6443 --data-dir DATA --kube-proxy-arg proxy-mode=teleport", 2, []string{"kube-proxy", "teleport"}},
		{"kube-apiserver-arg", "server --data-dir DATA --kube-apiserver-arg no-such-flag=1", 2, []string{"kube-apiserver", "unknown flag: --no-such-flag"}},
		{"kube-apiserver-arg, wrong value", "server --data-dir DATA --kube-apiserver-arg authorization-mode=Nonsense", 2, []string{"kube-apiserver", "Nonsense"}},
		{"kube-controller-manager-arg", "server --data-dir DATA --kube-controller-manager-arg node-monitor-period=never", 2, []string{"kube-controller-manager", "never"}},
		{"kube-scheduler-arg", "server --data-dir DATA --kube-scheduler-arg leader-elect=perhaps", 2, []string{"kube-scheduler", "perhaps"}},
		{"kubelet-arg", "server --data-dir DATA --kubelet-arg max-pods=many", 2, []string{"kubelet", "many"}},
		{"kubelet-arg, unknown", "server --data-dir DATA --kubelet-arg no-such-flag=1", 2, []string{"kubelet", "no-such-flag"}},
		{"kube-proxy-arg", "server --data-dir DATA --kube-proxy-arg proxy-mode=teleport", 2, []string{"kube-proxy", "teleport"}},
		{"data directory is a file", "server --data-dir /srv/a-file", 1, []string{"/srv/a-file"}},
		{"agent without server", "agent --data-dir DATA", 2, []string{"server: is needed", "https://HOST:6443"}},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, s.with(t), node, c) })
	}
	t.Run("environment", func(t *testing.T) {
		s := s.with(t)
		r := s.in(s.ctx, node, "env", "LIMPET_HTTPS_LISTEN_PORT=many", "timeout", "60", "limpet", "server", "--data-dir", "/srv/env")
		checkRefusal(t, r, 2, "LIMPET_HTTPS_LISTEN_PORT", "many")
		absent(t, s, node, "/srv/env")
	})
	t.Run("the flags of the unit", func(t *testing.T) {
		s := s.with(t)
		eventually(s.ctx, t, "limpet ended", func() error {
			_, err := os.Stat(s.path(t, node, "/run/node/limpet.exit"))
			return err
		})
		if code := strings.TrimSpace(s.mustIn(s.ctx, t, node, "cat", "/run/node/limpet.exit")); code != "2" {
			t.Errorf("exit status %s, want 2", code)
		}
		absent(t, s, node, dataDir+"/server")
	})
	t.Run("config check, right", func(t *testing.T) {
		s := s.with(t)
		if out := s.mustIn(s.ctx, t, node, "limpet", "config", "check", "--config", "/srv/good.yaml"); !strings.Contains(out, "valid") {
			t.Errorf("it says %q", out)
		}
		if out := s.mustIn(s.ctx, t, node, "limpet", "config", "print", "--config", "/srv/good.yaml"); !strings.Contains(out, "10.1.0.0/16  # /srv/good.yaml:2") {
			t.Errorf("config print: %s", out)
		}
	})
	t.Run("not root", func(t *testing.T) {
		s := s.with(t)
		s.mustIn(s.ctx, t, node, "install", "-d", "-o", "65534", "/srv/nobody")
		r := s.in(s.ctx, node, "timeout", "60", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "limpet", "server", "--data-dir", "/srv/nobody/data")
		checkRefusal(t, r, 1, "root")
		absent(t, s, node, "/srv/nobody/data")
	})
	// One after the other: the ports are those of the whole node.
	for port, what := range map[string]string{"6443": "--https-listen-port", "10250": "10250"} {
		t.Run("port "+port+" taken", func(t *testing.T) {
			s.node(t, node).listen(t, "0.0.0.0:"+port)
			refused(t, s.with(t), node, wrongInput{cmd: "server --data-dir DATA", code: 1, want: []string{port, "taken", what}})
		})
	}
	t.Run("read-only data directory", func(t *testing.T) {
		s := s.with(t)
		s.mustIn(s.ctx, t, node, "sh", "-c", "mkdir /srv/ro && mount -n -t tmpfs -o ro ro /srv/ro")
		r := s.in(s.ctx, node, "timeout", "60", "limpet", "server", "--data-dir", "/srv/ro/data")
		checkRefusal(t, r, 1, "/srv/ro/data", "read-only")
	})
	t.Run("full data directory", func(t *testing.T) {
		s := s.with(t)
		s.mustIn(s.ctx, t, node, "sh", "-c", "mkdir /srv/full && mount -n -t tmpfs -o size=1m full /srv/full")
		r := s.in(s.ctx, node, "timeout", "60", "limpet", "server", "--data-dir", "/srv/full/data")
		checkRefusal(t, r, 1, "/srv/full/data", "no space", "are free", "--data-dir")
		// What cannot be completed is not left half done.
		if out := s.mustIn(s.ctx, t, node, "find", "/srv/full/data", "-type", "f", "-size", "+64k"); out != "" {
			t.Errorf("left behind: %s", out)
		}
	})
}

// refused runs limpet in the node and checks that it ends as it must, with nothing left.
func refused(t *testing.T, s *space, node string, c wrongInput) {
	t.Helper()
	dir := "/srv/" + strings.NewReplacer(" ", "-", "/", "-", ",", "").Replace(t.Name())
	words := strings.Fields(strings.ReplaceAll(c.cmd, "DATA", dir))
	r := s.in(s.ctx, node, append([]string{"timeout", "60", "limpet"}, words...)...)
	checkRefusal(t, r, c.code, c.want...)
	absent(t, s, node, dir)
}

func checkRefusal(t *testing.T, r result, code int, want ...string) {
	t.Helper()
	t.Logf("exit status %d after %s: %s", r.code, r.took.Round(time.Millisecond), strings.TrimSpace(r.text()))
	if r.code != code {
		t.Errorf("exit status %d, want %d", r.code, code)
	}
	for _, w := range want {
		if !strings.Contains(r.stderr, w) {
			t.Errorf("standard error does not say %q", w)
		}
	}
	if strings.Contains(r.text(), "goroutine ") {
		t.Error("it crashed")
	}
}

// absent fails when wrong input left something in the data directory.
func absent(t *testing.T, s *space, node, dir string) {
	t.Helper()
	if r := s.in(s.ctx, node, "find", dir); r.code == 0 {
		t.Errorf("left behind:\n%s", r.stdout)
	}
}
