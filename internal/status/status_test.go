package status

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/component"
)

// serve runs a Server on a socket of the test's own and returns its path.
func serve(t *testing.T, report Report) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "status.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	done := make(chan error, 1)
	s := &Server{Path: path, Report: func() Report { return report }}
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestPrint(t *testing.T) {
	t.Parallel()
	now := time.Now()
	healthy := Report{
		Version: "v1", Mode: "server", Node: "box", Started: now.Add(-90 * time.Minute),
		Components: []component.State{{Name: "kubelet", Phase: component.Ready, Since: now, ReadyAfter: 1500 * time.Millisecond}},
		Manifests:  []File{{Name: "app.yaml", State: "Applied", Since: now}},
	}
	broken := healthy
	broken.Components = []component.State{{Name: "kubelet", Phase: component.Restarting, Since: now, Reason: "no disk"}}
	broken.Manifests = []File{{Name: "app.yaml", State: "Failed", Since: now, Error: "line 3: not YAML"}}
	broken.DNS = &DNS{Error: "Corefile:2 - unknown directive"}
	tests := []struct {
		name   string
		report Report
		want   []string
		err    error
	}{
		{"all is well", healthy, []string{"server on node box", "running for 1h30m", "1.50s", "app.yaml", "All is well."}, nil},
		{"problems are named", broken, []string{
			"component kubelet is restarting: no disk", "manifest app.yaml: line 3: not YAML", "dns: Corefile:2 - unknown directive",
		}, ErrUnhealthy},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := serve(t, tt.report)
			var out bytes.Buffer
			if err := Print(context.Background(), &out, path, false); !errors.Is(err, tt.err) {
				t.Errorf("Print = %v, want %v", err, tt.err)
			}
			for _, s := range tt.want {
				if !strings.Contains(out.String(), s) {
					t.Errorf("%q is missing in\n%s", s, out.String())
				}
			}
		})
	}
}

func TestSocketIsPrivate(t *testing.T) {
	t.Parallel()
	info, err := os.Stat(serve(t, Report{}))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
}

func TestFetchWithoutAServerSaysWhatToDo(t *testing.T) {
	t.Parallel()
	_, err := Fetch(context.Background(), filepath.Join(t.TempDir(), "none.sock"))
	if err == nil || !strings.Contains(err.Error(), "is it running?") {
		t.Errorf("Fetch = %v", err)
	}
}
