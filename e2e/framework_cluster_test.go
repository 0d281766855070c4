package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// What every test node has.
const (
	node1   = "n1"
	lan     = "lan" // a machine outside of the cluster, on its network
	dataDir = "/var/lib/limpet"
)

// cluster is a cluster made by scripts/cluster.
type cluster struct {
	name   string
	dir    string
	bin    string       // the limpet of its nodes; empty: env.bin
	config *rest.Config // administrator, from this machine
	client *kubernetes.Clientset
}

func clusterName(test string) string {
	return strings.ToLower(strings.ReplaceAll(test, "/", "-"))
}

// startCluster brings a cluster up and waits until n1 is Ready.
func startCluster(ctx context.Context, name, bin string, args ...string) (*cluster, error) {
	c := &cluster{name: name, dir: filepath.Join(env.clusters, name), bin: bin}
	if _, err := c.script(ctx, append([]string{"up"}, args...)...); err != nil {
		return nil, err
	}
	return c, c.connect(ctx)
}

// connect makes the client; the kubeconfig leads through a relay on loopback.
func (c *cluster) connect(ctx context.Context) error {
	out, err := c.script(ctx, "kubeconfig")
	if err != nil {
		return err
	}
	if c.config, err = clientcmd.BuildConfigFromFlags("", strings.TrimSpace(out)); err != nil {
		return fmt.Errorf("read kubeconfig of cluster %s: %w", c.name, err)
	}
	c.config.QPS = -1
	// A dialer of its own means connections of its own: after a power cut the old ones are dead.
	c.config.Dial = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	c.client, err = kubernetes.NewForConfig(c.config)
	return err
}

// script runs scripts/cluster and returns its standard output; the error holds the other.
func (c *cluster) script(ctx context.Context, args ...string) (string, error) {
	r := c.run(ctx, args...)
	if r.code != 0 {
		return r.stdout, fmt.Errorf("cluster %s: %s: exit status %d: %s",
			c.name, strings.Join(args, " "), r.code, strings.TrimSpace(r.stderr))
	}
	return r.stdout, nil
}

// result is what a command left.
type result struct {
	stdout, stderr string
	code           int
	took           time.Duration
}

// text is both outputs.
func (r result) text() string { return r.stdout + r.stderr }

// environ keeps kubectl away from the user's own settings and cache.
func (c *cluster) environ() []string {
	return append(os.Environ(), "CLUSTER_DIR="+c.dir, "KUBERC=off", "KUBECACHEDIR="+filepath.Join(c.dir, "kubectl-cache"))
}

func (c *cluster) run(ctx context.Context, args ...string) result {
	cmd := exec.CommandContext(ctx, filepath.Join(env.repo, "scripts", "cluster"), args...)
	cmd.Env = c.environ()
	if args[0] == "up" {
		cmd.Env = append(cmd.Env, "LIMPET_BIN="+cmp.Or(c.bin, env.bin))
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String(), took: time.Since(start)}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		r.code = exit.ExitCode()
	}
	if err != nil && r.code == 0 {
		r.code, r.stderr = -1, r.stderr+err.Error()
	}
	if ctx.Err() != nil {
		r.code, r.stderr = -1, r.stderr+"\nended by the test: "+context.Cause(ctx).Error()
	}
	return r
}

// in runs a command in a node (or on the LAN) that may fail.
func (c *cluster) in(ctx context.Context, node string, cmd ...string) result {
	return c.run(ctx, append([]string{"exec", node}, cmd...)...)
}

// mustIn runs a command in a node that must succeed and returns its standard output.
func (c *cluster) mustIn(ctx context.Context, t *testing.T, node string, cmd ...string) string {
	t.Helper()
	out, err := c.script(ctx, append([]string{"exec", node}, cmd...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// must runs scripts/cluster.
func (c *cluster) must(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.script(ctx, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// node is the network of a node, or of the LAN.
func (c *cluster) node(t *testing.T, name string) place {
	t.Helper()
	file := filepath.Join(c.dir, name, "init.pid")
	if name == lan {
		file = filepath.Join(c.dir, lan, "pid")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatalf("pid of %s: %v", name, err)
	}
	return place{name: name, pid: pid}
}

// nodeIP is the node's address on the LAN.
func (c *cluster) nodeIP(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, name, "ip"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// path is a node's file as this machine sees it.
func (c *cluster) path(t *testing.T, node, file string) string {
	t.Helper()
	return filepath.Join("/proc", strconv.Itoa(c.node(t, node).pid), "root", file)
}

// drop puts a file into a node in one step, as careful users do: written beside and renamed.
func (c *cluster) drop(t *testing.T, node, file string, data []byte) {
	t.Helper()
	dest := c.path(t, node, file)
	hidden := filepath.Join(filepath.Dir(dest), "."+filepath.Base(dest)+".part")
	if err := os.WriteFile(hidden, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(hidden, dest); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) remove(t *testing.T, node, file string) {
	t.Helper()
	if err := os.Remove(c.path(t, node, file)); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

// report is `limpet status -o json` of a node: as much of it as tests look at.
type report struct {
	Kubernetes string `json:"kubernetes"`
	PID        int    `json:"pid"`
	Components []struct {
		Name, Phase, Reason string
		Restarts            int
	} `json:"components"`
	Manifests []fileState `json:"manifests"`
	Images    []fileState `json:"images"`
	DNS       struct {
		Upstreams []string `json:"upstreams"`
		Error     string   `json:"error"`
	} `json:"dns"`
}

type fileState struct{ Name, State, Error string }

// status asks limpet itself; it exits with 1 while a file or a part is in trouble.
func (c *cluster) status(ctx context.Context, t *testing.T) report {
	t.Helper()
	r := c.in(ctx, node1, "limpet", "status", "-o", "json")
	var s report
	if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
		t.Fatalf("limpet status -o json: exit status %d, %v: %s", r.code, err, r.text())
	}
	return s
}

// statusOf finds a file by its base name.
func statusOf(files []fileState, base string) (fileState, bool) {
	for _, f := range files {
		if filepath.Base(f.Name) == base {
			return f, true
		}
	}
	return fileState{}, false
}

// printLogTail shows the end of limpet's log.
func (c *cluster) printLogTail(t *testing.T) {
	t.Helper()
	logs, _ := filepath.Glob(filepath.Join(c.dir, "n*", "limpet.log"))
	for _, file := range logs {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
		t.Logf("the last lines of limpet's log on %s (all of it will be in %s):\n%s", filepath.Base(filepath.Dir(file)),
			filepath.Join(env.logs, c.name), strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

// keepLogs copies the nodes' logs to where they survive the cluster.
func (c *cluster) keepLogs() {
	dir := filepath.Join(env.logs, c.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: keep logs:", err)
		return
	}
	logs, _ := filepath.Glob(filepath.Join(c.dir, "n*", "*.log"))
	for _, file := range logs {
		data, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(filepath.Dir(file))+"-"+filepath.Base(file)), data, 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e: keep logs:", err)
		}
	}
}
