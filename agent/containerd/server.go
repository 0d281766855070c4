package containerd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdserver "github.com/containerd/containerd/v2/cmd/containerd/server"
	srvconfig "github.com/containerd/containerd/v2/cmd/containerd/server/config"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// boltOpenTimeout bounds the wait for the lock of a database that another
// containerd has open; upstream waits for ever.
const boltOpenTimeout = "10s"

// errHalfStarted means that some of containerd's plugins run, and cannot be
// ended: upstream forgets them when a later one fails. One has the lock of the
// database, so that no other start can succeed in this process.
var errHalfStarted = errors.New("start containerd")

// loadConfig reads a configuration file of any version that containerd knows.
func loadConfig(ctx context.Context, path string, l *slog.Logger) (*srvconfig.Config, error) {
	cfg := &srvconfig.Config{
		Version:          version.ConfigVersion,
		Plugins:          map[string]any{},
		ProxyPlugins:     map[string]srvconfig.ProxyPlugin{},
		Timeouts:         map[string]string{"io.containerd.timeout.bolt.open": boltOpenTimeout},
		StreamProcessors: map[string]srvconfig.StreamProcessor{},
	}
	registered := registry.Graph(func(*plugin.Registration) bool { return false })
	plugins := func() iter.Seq[plugin.Registration] { return slices.Values(registered) }
	// The file stays at version 3, which is what people's templates are written
	// in: that it is migrated at every start is nothing to warn of.
	ctx = log.WithLogger(ctx, logrus.NewEntry(logrusTo(l, "Configuration migrated")))
	if err := srvconfig.LoadConfigWithPlugins(ctx, path, plugins, cfg); err != nil {
		return nil, fmt.Errorf("containerd configuration %s: %w", path, err)
	}
	return cfg, nil
}

// newServer initialises containerd's plugins. It holds no other state of the
// process than containerd's own, and does not look at signals.
func newServer(ctx context.Context, cfg *srvconfig.Config) (srv *cdserver.Server, err error) {
	if err := cdserver.CreateTopLevelDirectories(cfg); err != nil {
		return nil, fmt.Errorf("containerd directories: %w", err)
	}
	if err := mount.SetTempMountLocation(filepath.Join(cfg.Root, "tmpmounts")); err != nil {
		return nil, fmt.Errorf("containerd temporary mounts: %w", err)
	}
	warnings, err := mount.CleanupTempMounts(0)
	if err != nil {
		return nil, fmt.Errorf("unmount what containerd left: %w", err)
	}
	for _, w := range warnings {
		log.G(ctx).WithError(w).Warn("unmount what containerd left")
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: panic: %v", errHalfStarted, r)
			stack := string(debug.Stack())
			if strings.Contains(stack, "go.etcd.io/bbolt") {
				err = errors.Join(err, markSuspect(cfg.Root, fmt.Sprintf("bbolt panicked: %v", r)))
			}
			log.G(ctx).WithField("stack", stack).Error("containerd panicked while starting")
		}
	}()
	defer keepVerbosity()()
	srv, err = cdserver.New(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errHalfStarted, err)
	}
	return srv, nil
}

// keepVerbosity returns a function that sets klog's -v back to what it is now.
// The CRI plugin sets it for the whole process, going by containerd's log level.
func keepVerbosity() (restore func()) {
	fs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(fs)
	before := fs.Lookup("v").Value.String()
	return func() { _ = fs.Set("v", before) } // its own value is always accepted
}

// server is a running containerd.
type server struct {
	*cdserver.Server
	trap   *fatalTrap
	cancel context.CancelFunc
}

// startServer starts containerd as the configuration file at path says. The
// server does not end with ctx, but with stop.
func startServer(ctx context.Context, path string, l *slog.Logger) (*server, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &server{trap: trapFatal(), cancel: cancel}
	cfg, err := loadConfig(ctx, path, l)
	if err == nil {
		s.Server, err = newServer(ctx, cfg)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	if err := s.listen(ctx, cfg); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// listen opens the sockets; root alone may use them. Upstream makes them usable
// for the group root too.
func (s *server) listen(ctx context.Context, cfg *srvconfig.Config) error {
	if err := s.Start(ctx); err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	for _, id := range []string{"io.containerd.server.v1.grpc", "io.containerd.server.v1.ttrpc"} {
		settings, _ := cfg.Plugins[id].(map[string]any)
		address, _ := settings["address"].(string)
		if address == "" {
			continue
		}
		if err := os.Chmod(address, 0o600); err != nil {
			return fmt.Errorf("containerd socket: %w", err)
		}
	}
	return nil
}

// waitReady returns when all plugins have finished what they began at start, the
// CRI service among them with finding its pods again.
func (s *server) waitReady(ctx context.Context) error {
	ready := make(chan struct{})
	go func() {
		s.Wait()
		close(ready)
	}()
	select {
	case <-ready:
		return nil
	case err := <-s.failed():
		return fmt.Errorf("start containerd: %w", err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// failed delivers the error that would have ended the process.
func (s *server) failed() <-chan error { return s.trap.hit }

// stop ends the services first and closes the databases last. Shims, and with
// them the containers, go on.
func (s *server) stop() {
	s.Stop()
	s.cancel()
}

// claimSockets removes the sockets that a containerd which is gone left behind.
// It dials them first: a file says nothing about whether somebody listens.
func claimSockets(ctx context.Context, paths ...string) error {
	for _, path := range paths {
		dialer := net.Dialer{Timeout: time.Second}
		conn, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			_ = conn.Close()
			return fmt.Errorf("another containerd uses %s: is another limpet running? Stop it first", path)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove stale socket: %w", err)
		}
	}
	return nil
}

// logrusTo is a logrus logger that writes to l, without messages that begin with skip.
func logrusTo(l *slog.Logger, skip string) *logrus.Logger {
	logger := logrus.New()
	logger.SetOutput(discard{})
	logger.SetLevel(logrus.WarnLevel)
	logger.AddHook(slogHook{log: l, skip: skip})
	return logger
}

type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }

type slogHook struct {
	log  *slog.Logger
	skip string
}

func (slogHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h slogHook) Fire(e *logrus.Entry) error {
	if strings.HasPrefix(e.Message, h.skip) {
		return nil
	}
	attrs := make([]slog.Attr, 0, len(e.Data))
	for k, v := range e.Data {
		attrs = append(attrs, slog.Any(k, v))
	}
	level := slog.LevelWarn
	if e.Level <= logrus.ErrorLevel {
		level = slog.LevelError
	}
	h.log.LogAttrs(context.Background(), level, e.Message, attrs...)
	return nil
}
