package logging

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
)

// expected are the beginnings of upstream's error messages that every healthy
// start and stop brings about. An operator who learns to overlook errors
// overlooks the real one, so these are shown with --debug only.
var expected = []string{ //nolint:gochecknoglobals // constant
	// Printed whenever no such manifest is configured (component-base, metrics.SetLabelAllowListFromManifest).
	"The manifest file is empty, ignoring.",
	// The apiserver's own lease and bookkeeping, before it has made the namespace kube-system.
	"Failed to ensure lease exists, will retry",
	"Error while syncing ConfigMap",
	"Found stale data, removed previous endpoints on kubernetes service",
	// The kubelet's first seconds, before its own statistics exist.
	"Skipping pod synchronization",
	"Image garbage collection failed once. Stats initialization may not have completed yet",
	"Failed to read data from checkpoint",
	"eviction manager: failed to check if we have separate container filesystem. Ignoring.",
	"eviction manager: failed to get summary stats",
	// containerd, before the network has written its first configuration, and
	// on file systems without fs-verity.
	"failed to load cni during init",
	"failed check for fsverity support",
	// kube-proxy, on a node on which it has never run.
	"Failed to list existing sets",
	// Without CAP_SYS_RESOURCE; check-config tells of that.
	"Failed to ensure process in container with oom score",
}

// demoter hides the expected messages, and all of upstream's once the process
// stops: its goroutines outlive their components and complain that everything
// around them has gone.
type demoter struct {
	slog.Handler
	stopping *atomic.Bool
}

// Handle implements slog.Handler.
func (d demoter) Handle(ctx context.Context, r slog.Record) error {
	if d.stopping.Load() {
		return nil
	}
	for _, prefix := range expected {
		if strings.HasPrefix(r.Message, prefix) {
			return nil
		}
	}
	return d.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (d demoter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return demoter{d.Handler.WithAttrs(attrs), d.stopping}
}

// WithGroup implements slog.Handler.
func (d demoter) WithGroup(name string) slog.Handler {
	return demoter{d.Handler.WithGroup(name), d.stopping}
}
