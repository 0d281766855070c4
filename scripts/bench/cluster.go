package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// nodeName is the one node of a benchmark's cluster.
const nodeName = "n1"

// cluster is the cluster that is measured, made by scripts/cluster.
type cluster struct {
	dir    string
	images string
	// args are further arguments of `cluster up`: its own options, such as
	// --env GOGC=50, and flags of limpet server.
	args   []string
	stderr io.Writer
}

func newCluster(dir, images string, args []string, stderr io.Writer) (*cluster, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("directory of the cluster: %w", err)
	}
	if _, err := os.Stat(filepath.Join("scripts", "cluster")); err != nil {
		return nil, errors.New("scripts/cluster is not here: run this in the root of the repository")
	}
	if _, err := os.Stat(filepath.Join(images, busyboxArchive)); err != nil {
		return nil, fmt.Errorf("test images: %w; build them with: make images", err)
	}
	return &cluster{dir: dir, images: images, args: args, stderr: stderr}, nil
}

// up makes a node with an empty data directory and starts limpet on it, without
// waiting for anything.
func (c *cluster) up(ctx context.Context) error {
	args := []string{"up", "--no-wait", "--images", filepath.Join(c.images, busyboxArchive), "--images", filepath.Join(c.images, httpdArchive)}
	return c.script(ctx, append(args, c.args...)...)
}

// down removes the cluster; harmless when there is none.
func (c *cluster) down(ctx context.Context) error { return c.script(ctx, "down") }

// restart stops limpet in order and boots the node anew on its disk, as a
// machine does whose owner reboots it, and starts limpet. The pause keeps the
// heartbeats, which are whole seconds, of the two starts apart.
func (c *cluster) restart(ctx context.Context) error {
	if err := c.script(ctx, "stop", nodeName); err != nil {
		return err
	}
	if !sleep(ctx, 2*time.Second) {
		return ctx.Err()
	}
	return c.script(ctx, "reboot", nodeName)
}

// node is the running node of the server.
func (c *cluster) node(ctx context.Context) (*node, error) { return c.nodeNamed(ctx, nodeName) }

func (c *cluster) nodeNamed(ctx context.Context, name string) (*node, error) {
	data, err := os.ReadFile(filepath.Join(c.dir, name, "init.pid"))
	if err != nil {
		return nil, fmt.Errorf("process 1 of the node: %w", err)
	}
	init, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, fmt.Errorf("process 1 of the node: %w", err)
	}
	out, err := c.output(ctx, "pid", name)
	if err != nil {
		return nil, err
	}
	limpet, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return nil, fmt.Errorf("pid of limpet: %w", err)
	}
	return &node{init: init, limpet: limpet}, nil
}

func (c *cluster) script(ctx context.Context, args ...string) error {
	_, err := c.output(ctx, args...)
	return err
}

// output runs scripts/cluster; the error holds what it said.
func (c *cluster) output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join("scripts", "cluster"), args...)
	cmd.Env = append(os.Environ(), "CLUSTER_DIR="+c.dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	// Ctrl-C is for this program, which then removes the cluster.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("cluster %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// printLogTail shows the end of limpet's log after a failure.
func (c *cluster) printLogTail() {
	logs, _ := filepath.Glob(filepath.Join(c.dir, "n*", "limpet.log"))
	for _, file := range logs {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
		fmt.Fprintf(c.stderr, "--- the last lines of limpet's log on %s:\n%s\n---\n", filepath.Base(filepath.Dir(file)), strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}
