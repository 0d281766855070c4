package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/limpetio/limpet/internal/status"
)

// adminKubeconfig is where a server writes it.
const adminKubeconfig = "/etc/limpet/limpet.yaml"

// node is the node's processes as the machine sees them.
type node struct {
	init   int // process 1 of the node's pid namespace
	limpet int
}

// path is a file of the node, as the machine sees it.
func (n *node) path(file string) string {
	return filepath.Join("/proc", strconv.Itoa(n.init), "root", file)
}

// dial connects from inside the node's network namespace. It is called with
// addresses only: a name would be looked up outside of the namespace.
func (n *node) dial(ctx context.Context, network, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		back, err := n.enterNetwork()
		if err != nil {
			// The thread may be in the wrong namespace: it ends with this goroutine.
			done <- result{err: err}
			return
		}
		var d net.Dialer
		conn, err := d.DialContext(ctx, network, address)
		if back() == nil {
			runtime.UnlockOSThread()
		}
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// enterNetwork moves the calling thread into the node's network namespace.
func (n *node) enterNetwork() (back func() error, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("own network namespace: %w", err)
	}
	target, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.init))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("network namespace of the node: %w", err), home.Close())
	}
	defer func() { _ = target.Close() }() // only opened
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, errors.Join(fmt.Errorf("enter the network namespace of the node: %w", err), home.Close())
	}
	return func() error {
		return errors.Join(unix.Setns(int(home.Fd()), unix.CLONE_NEWNET), home.Close())
	}, nil
}

// restConfig is the administrator's access to the API, without a limit of its
// own, with protobuf both ways and without gzip: on one machine that would
// measure the compression of the benchmark's random text.
func (n *node) restConfig() (*rest.Config, error) {
	data, err := os.ReadFile(n.path(adminKubeconfig))
	if err != nil {
		return nil, err
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(data)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig of the node: %w", err)
	}
	cfg.Dial = n.dial
	cfg.QPS = -1
	cfg.DisableCompression = true
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	return cfg, nil
}

// clients returns n clients with a connection each.
func (n *node) clients(count int) ([]kubernetes.Interface, error) {
	clients := make([]kubernetes.Interface, count)
	for i := range clients {
		cfg, err := n.restConfig() // every config has a transport of its own, because of Dial
		if err != nil {
			return nil, err
		}
		if clients[i], err = kubernetes.NewForConfig(cfg); err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
	}
	return clients, nil
}

func (n *node) client() (kubernetes.Interface, error) {
	clients, err := n.clients(1)
	if err != nil {
		return nil, err
	}
	return clients[0], nil
}

// status is what `limpet status -o json` prints in the node. Its socket is asked
// directly: starting the program would disturb what is measured.
func (n *node) status(ctx context.Context) (status.Report, error) {
	return status.Fetch(ctx, n.path(status.Socket))
}

// ended tells why limpet runs no more; nil while it runs.
func (n *node) ended() error {
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/stat", n.limpet)); err != nil {
		return errors.New("limpet has ended")
	}
	return nil
}

// sleep waits; false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
