// Package e2e tests the real binary, dist/limpet, with real pods on test nodes
// that scripts/cluster makes in namespaces of this machine. Most tests share
// one cluster, each in a Kubernetes namespace of its own; a test that stops or
// disturbs the server has a cluster of its own.
//
// It runs as root, after `make build images`:
//
//	go test -count=1 -timeout 30m ./e2e
//
// Nothing but files below .run/e2e and, after a failure, the logs in .run/e2e-logs is
// written, and everything else is torn down at the end. LIMPET_BIN names another
// binary, LIMPET_E2E_IMAGES another directory of test images, LIMPET_E2E_RUN
// another directory instead of .run/e2e: a run ends all clusters that it finds
// there, so that runs at the same time need one each.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/semaphore"
)

// parallelTests suits two cores: tests mostly wait for a cluster, or for room for one.
const parallelTests = "6"

const (
	// ownLimpets is how many limpets may run at a time beside the shared one. Each
	// holds some 24 of the 128 inotify instances that root usually has.
	ownLimpets = 4
	// alone is for a test that wants the machine for itself, more or less.
	alone = ownLimpets
)

const sharedName = "shared"

// env is what all tests share.
var env suite

// suite is the state of one run of the tests.
type suite struct {
	repo     string // root of the source tree
	bin      string // the limpet binary
	images   string // archives of the test images
	clusters string // directories of the clusters
	logs     string // where logs are kept after a failure

	// room is for the limpets of clusters beside the shared one.
	room *semaphore.Weighted

	once   sync.Once
	shared *cluster
	err    error
}

func TestMain(m *testing.M) { os.Exit(runSuite(m)) }

func runSuite(m *testing.M) int {
	flag.Parse()
	if err := env.prepare(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	if !flagGiven("test.parallel") {
		if err := flag.Set("test.parallel", parallelTests); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			return 1
		}
	}
	// An interrupted run ends its clusters, too.
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		env.downAll()
		os.Exit(130)
	}()
	code := m.Run()
	if code != 0 {
		env.sharedDir().keepLogs()
	}
	env.downAll()
	return code
}

func flagGiven(name string) bool {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}

// prepare finds the inputs and removes what a killed run left.
func (s *suite) prepare() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("test nodes are made of namespaces: run this as root (sudo)")
	}
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	s.repo = filepath.Dir(wd)
	s.clusters = filepath.Join(s.repo, ".run", "e2e")
	if dir := os.Getenv("LIMPET_E2E_RUN"); dir != "" {
		s.clusters = dir
	}
	s.logs = s.clusters + "-logs"
	s.bin = filepath.Join(s.repo, "dist", "limpet")
	if bin := os.Getenv("LIMPET_BIN"); bin != "" {
		s.bin = bin
	}
	s.images = filepath.Join(s.repo, ".cache", "images")
	if dir := os.Getenv("LIMPET_E2E_IMAGES"); dir != "" {
		s.images = dir
	}
	if _, err := os.Stat(s.bin); err != nil {
		return fmt.Errorf("%w; build it with: make build", err)
	}
	for _, file := range []string{"busybox-1.tar", "httpd-1.tar", "httpd-2.tar"} {
		if _, err := os.Stat(filepath.Join(s.images, file)); err != nil {
			return fmt.Errorf("%w; build it with: make images", err)
		}
	}
	s.room = semaphore.NewWeighted(ownLimpets)
	s.downAll()
	if err := os.RemoveAll(s.logs); err != nil {
		return err
	}
	return os.MkdirAll(s.clusters, 0o755)
}

// downAll ends every cluster of the suite, whoever started it.
func (s *suite) downAll() {
	entries, err := os.ReadDir(s.clusters)
	if err != nil {
		return // none
	}
	for _, e := range entries {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		c := &cluster{name: e.Name(), dir: filepath.Join(s.clusters, e.Name())}
		if _, err := c.script(ctx, "down"); err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
		}
		cancel()
	}
	_ = os.Remove(s.clusters)               // fails, rightly, while a cluster is left
	_ = os.Remove(filepath.Dir(s.clusters)) // and while there are logs
}

// sharedDir is the shared cluster as far as it came.
func (s *suite) sharedDir() *cluster {
	return &cluster{name: sharedName, dir: filepath.Join(s.clusters, sharedName)}
}

// sharedCluster is the cluster of all tests that leave the server alone.
// Its options are those that some test is about.
func sharedCluster(t *testing.T) *cluster {
	t.Helper()
	env.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		env.shared, env.err = startCluster(ctx, sharedName, "", "--images", env.images,
			"--audit-log-path", auditLog,
			"--kubelet-arg", fmt.Sprintf("pod-max-pids=%d", podMaxPids))
	})
	if env.err != nil {
		t.Fatalf("the shared cluster did not start: %v", env.err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			env.shared.printLogTail(t)
		}
	})
	return env.shared
}

// take waits for room for so many limpets, which is the test's until its clusters
// have ended.
func (s *suite) take(t *testing.T, limpets int64) {
	t.Helper()
	if err := s.room.Acquire(t.Context(), limpets); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.room.Release(limpets) })
}

// ownCluster starts a cluster for this test alone, with no more than so many
// limpets at a time.
func ownCluster(t *testing.T, limpets int64, args ...string) *cluster {
	t.Helper()
	return ownClusterOf(t, "", limpets, args...)
}

// ownClusterOf is ownCluster with another binary.
func ownClusterOf(t *testing.T, bin string, limpets int64, args ...string) *cluster {
	t.Helper()
	env.take(t, limpets)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	name := clusterName(t.Name())
	t.Cleanup(func() {
		c := &cluster{name: name, dir: filepath.Join(env.clusters, name)}
		if t.Failed() {
			c.printLogTail(t)
			c.keepLogs()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := c.script(ctx, "down"); err != nil {
			t.Errorf("end the cluster: %v", err)
		}
	})
	c, err := startCluster(ctx, name, bin, append([]string{"--images", env.images}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
