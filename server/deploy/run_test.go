package deploy

import (
	"context"
	"os"
	"testing"
	"testing/fstest"
	"time"
)

// Everything together, with real time and real events.
func TestRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.start(fstest.MapFS{"core.yaml": {Data: []byte(manifest("core"))}})
	p.ledger.now = time.Now
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error)
	go func() { ended <- p.Run(ctx, func() { close(ready) }) }()
	await := func(what string, done func() bool) {
		t.Helper()
		timeout := time.After(10 * time.Second)
		for !done() {
			select {
			case <-w.changed:
			case <-timeout:
				t.Fatalf("%s: timed out", what)
			}
		}
	}
	exists := func(name string) bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.objects[name] != ""
	}
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Fatal("never ready")
	}
	w.has("core")
	began := time.Now()
	path := put(t, w.dir, "sub/a.yaml", manifest("a"))
	await("a new file in a new directory", func() bool { return exists("a") })
	t.Logf("a new file was applied after %v", time.Since(began).Round(time.Millisecond))
	w.failing("b", "not yet")
	put(t, w.dir, "b.yaml", manifest("b"))
	put(t, w.dir, "sub/a.yaml", manifest("a2"))
	await("a change beside a failure", func() bool { return exists("a2") && !exists("a") })
	w.failing("b", "")
	await("a retry", func() bool { return exists("b") })
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	await("a removed file", func() bool { return !exists("a2") })
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run returned %v when it was stopped", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not stop")
	}
}
