package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// place is a network namespace in which the tests can be a client or a server:
// a node's, a pod's or the LAN's. It is named by a process that lives in it.
type place struct {
	name string
	pid  int
}

// within runs fn on a thread that is in the namespace. Sockets keep the
// namespace in which they were made, so that what fn opens works everywhere.
func (p place) within(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		// Not unlocked when the way back fails: the thread then ends with the goroutine.
		runtime.LockOSThread()
		home, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			result <- err
			return
		}
		defer func() { _ = home.Close() }()
		there, err := os.Open(filepath.Join("/proc", strconv.Itoa(p.pid), "ns/net"))
		if err != nil {
			runtime.UnlockOSThread()
			result <- fmt.Errorf("network of %s: %w", p.name, err)
			return
		}
		defer func() { _ = there.Close() }()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter network of %s: %w", p.name, err)
			return
		}
		err = fn()
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		result <- err
	}()
	return <-result
}

// dial connects from the place to an address and port; names are not resolved.
func (p place) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = p.within(func() error {
		d := net.Dialer{Timeout: 5 * time.Second, FallbackDelay: -1}
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// listen takes a TCP port in the place until the test ends.
func (p place) listen(t *testing.T, address string) {
	t.Helper()
	var l net.Listener
	err := p.within(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatalf("listen on %s in %s: %v", address, p.name, err)
	}
	t.Cleanup(func() { _ = l.Close() })
}

// http is a client in the place; every request is a new connection, so that
// every one of them is sent to a backend anew.
func (p place) http() *http.Client {
	return &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DialContext: p.dial, DisableKeepAlives: true},
	}
}

// fetch gets http://address/path from the place.
func (p place) fetch(ctx context.Context, address, path string) (string, error) {
	return get(ctx, p.http(), "http://"+address+path)
}

// mustFetch is fetch for a Service that may have been told to kube-proxy only just now.
func (p place) mustFetch(ctx context.Context, t *testing.T, address, path string) string {
	t.Helper()
	var body string
	eventually(ctx, t, fmt.Sprintf("GET http://%s%s from %s", address, path, p.name), func() (err error) {
		body, err = p.fetch(ctx, address, path)
		return err
	})
	return strings.TrimSpace(body)
}

func get(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", url, resp.Status, body)
	}
	return string(body), err
}

// resolver asks the name server at address, and only it, from the place.
func (p place) resolver(address string) *net.Resolver {
	return &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return p.dial(ctx, network, address)
	}}
}

// podPlace is the network of a running pod.
func podPlace(t *testing.T, pod *corev1.Pod) place {
	t.Helper()
	return place{name: "pod " + pod.Name, pid: processOf(t, pod, "")}
}

// processOf finds a process of the pod's container on this machine by its
// cgroup; of any container, the pause container included, if container is "".
func processOf(t *testing.T, pod *corev1.Pod, container string) int {
	t.Helper()
	want := containerID(pod, container)
	procs, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	oldest := 0 // the container's first process, not one of a probe
	for _, file := range procs {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		text := strings.ReplaceAll(string(data), "_", "-") // the systemd driver's spelling
		if !strings.Contains(text, "pod"+string(pod.UID)) || !strings.Contains(text, want) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		if oldest == 0 || pid < oldest {
			oldest = pid
		}
	}
	if oldest == 0 {
		t.Fatalf("no process of pod %s, container %q found", pod.Name, container)
	}
	return oldest
}

// containerID is the ID without its scheme; empty when there is no such container.
func containerID(pod *corev1.Pod, container string) string {
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == container {
			_, id, _ := strings.Cut(s.ContainerID, "://")
			return id
		}
	}
	return ""
}

// traffic is a steady stream of requests, each on a connection of its own.
type traffic struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu       sync.Mutex
	requests int
	answers  map[string]int
	failures []string
	slowest  time.Duration
}

// requestTimeout is when a request of the traffic counts as failed. One second
// is no failure: masquerading may take a port that is still in TIME_WAIT at the
// pod, and TCP sends that first packet again after a second.
const requestTimeout = 5 * time.Second

// sendTraffic starts two clients in the place, each with a request every 10 ms.
func (p place) sendTraffic(ctx context.Context, url string) *traffic {
	ctx, cancel := context.WithCancel(ctx)
	h := &traffic{stop: cancel, answers: map[string]int{}}
	client := p.http()
	client.Timeout = requestTimeout
	for range 2 {
		h.done.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					h.request(ctx, client, url)
				}
			}
		})
	}
	return h
}

func (h *traffic) request(ctx context.Context, client *http.Client, url string) {
	start := time.Now()
	body, err := get(ctx, client, url)
	if errors.Is(ctx.Err(), context.Canceled) {
		return // not the server's failure
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests++
	h.slowest = max(h.slowest, time.Since(start))
	if err != nil {
		h.failures = append(h.failures, fmt.Sprintf("%s after %s: %v", start.Format("15:04:05.000"), time.Since(start).Round(time.Millisecond), err))
		return
	}
	h.answers[strings.TrimSpace(body)]++
}

// mustBeUnharmed ends the traffic and fails the test if a single request failed.
func (h *traffic) mustBeUnharmed(t *testing.T, what string) {
	t.Helper()
	h.stop()
	h.done.Wait()
	t.Logf("%s: %d requests, %d failed, slowest %s, answers %v", what, h.requests, len(h.failures), h.slowest.Round(time.Millisecond), h.answers)
	if h.requests < 50 {
		t.Errorf("%s: only %d requests were made: that says nothing", what, h.requests)
	}
	if n := len(h.failures); n > 0 {
		t.Errorf("%s: %d of %d requests failed:\n%s", what, n, h.requests, strings.Join(h.failures[:min(n, 10)], "\n"))
	}
}
