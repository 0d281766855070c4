// Package containerd runs containerd with its CRI service in our process, with
// what belongs to it: its configuration, the registries it pulls from, and the
// images that the node brings along.
//
// It uses cmd/containerd/server directly. Upstream's command would take over
// SIGTERM, and so stop containerd before the kubelet, and it ends the process
// when something fails.
package containerd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/platforms"

	"github.com/limpetio/limpet/agent/containerd/images"
	"github.com/limpetio/limpet/agent/containerd/registries"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/restart"
)

// Name of the component.
const Name = "containerd"

// Namespace of containerd in which the pods of Kubernetes live.
const Namespace = "k8s.io"

// DefaultPauseImage is the pause image that the payload brings.
const DefaultPauseImage = config.DefaultPauseImage

// SocketPath is containerd's socket below the run directory (/run/limpet).
func SocketPath(runDir string) string { return filepath.Join(runDir, "containerd", "containerd.sock") }

// ImageFileStatus tells what became of a file in the images directory.
type ImageFileStatus = images.FileStatus

// Options of containerd. DataDir, RunDir, PayloadBin and Logger are required; the
// zero value of everything else is the default.
type Options struct {
	// DataDir is limpet's (/var/lib/limpet), RunDir its directory on a tmpfs
	// (/run/limpet).
	DataDir, RunDir string
	// PayloadBin holds runc, its shim and the CNI plugins.
	PayloadBin string
	// PauseArchive is imported if PauseImage is missing; empty: it is pulled.
	PauseArchive string
	// PauseImage holds a pod's namespaces open; default DefaultPauseImage.
	PauseImage string

	// Snapshotter is overlayfs (default; native where overlayfs does not work),
	// native, or one that the user's template adds.
	Snapshotter string
	// DefaultRuntime is for pods without a RuntimeClass; default runc.
	DefaultRuntime string
	// SystemdCgroup must be as the kubelet's cgroupDriver is.
	SystemdCgroup bool
	// RestrictOOMScoreAdj is needed without CAP_SYS_RESOURCE.
	RestrictOOMScoreAdj bool
	// EnableNRI offers the Node Resource Interface at its usual socket.
	EnableNRI bool
	// DeviceOwnershipFromSecurityContext lets containers that are not root use
	// the devices they are given.
	DeviceOwnershipFromSecurityContext bool
	// DiscardUnpackedLayers: see Config.
	DiscardUnpackedLayers bool

	// RegistriesFile is registries.yaml; default /etc/limpet/registries.yaml.
	RegistriesFile string
	// ForeignNetwork: the pods' network is the user's, with its configuration
	// and plugins where such networks install them.
	ForeignNetwork bool

	// DisableDefaultRegistryEndpoint: see registries.Options.
	DisableDefaultRegistryEndpoint bool

	// ImagesImported, if set, is called after an image file has been imported.
	// It must not block.
	ImagesImported func()

	Logger *slog.Logger
}

// Containerd is the component. Make it with New.
type Containerd struct {
	opts Options

	// stuck is why a start failed halfway; only Run looks at it.
	stuck error

	mu       sync.Mutex
	importer *images.Importer // nil until containerd runs
}

// New makes the component and changes nothing on the machine.
func New(opts Options) *Containerd {
	setDefault(&opts.PauseImage, DefaultPauseImage)
	setDefault(&opts.DefaultRuntime, runtimeRunc)
	setDefault(&opts.RegistriesFile, "/etc/limpet/registries.yaml")
	return &Containerd{opts: opts}
}

func setDefault(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

// Name of the component.
func (*Containerd) Name() string { return Name }

// Address is the path of the socket of containerd and of its CRI service.
func (c *Containerd) Address() string { return SocketPath(c.opts.RunDir) }

// ImagesDir is where image files are put; see package images.
func (c *Containerd) ImagesDir() string { return filepath.Join(c.opts.DataDir, "agent", "images") }

// ImageFiles reports on the files in ImagesDir, by name; nil before the start.
func (c *Containerd) ImageFiles() []ImageFileStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.importer == nil {
		return nil
	}
	return c.importer.Status()
}

// Run starts containerd and calls ready when its CRI service answers and the
// pause image is there. When ctx is done it stops serving and closes the
// databases; containers go on with their shims, and the next Run finds them.
func (c *Containerd) Run(ctx context.Context, ready func()) error {
	etc := filepath.Join(c.opts.DataDir, "agent", "etc", "containerd")
	cfg, err := c.config(etc)
	if err != nil {
		return err
	}
	for _, dir := range []string{etc, cfg.CNIConfDir, cfg.CertsDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("containerd directory: %w", err)
		}
	}
	if err := ensurePath(cfg.Runtimes, os.Stat); err != nil {
		return err
	}
	regs, err := registries.Start(registries.Options{
		File: c.opts.RegistriesFile, CertsDir: cfg.CertsDir,
		DisableDefaultEndpoint: c.opts.DisableDefaultRegistryEndpoint, Logger: c.opts.Logger,
	})
	if err != nil {
		return err
	}
	// Everything below ends, and is waited for, before Run returns.
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		if err := regs.Run(ctx); err != nil {
			cancel(err)
		}
	})
	err = c.serve(ctx, cancel, &wg, etc, cfg, ready)
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return err
}

// stuckPause is how long a process in which containerd cannot start goes on: on
// a server the API is there meanwhile, and the cause may be one that passes.
const stuckPause = time.Minute

// newProcess waits, and asks for what alone can start containerd again.
func newProcess(ctx context.Context, cause error) error {
	select {
	case <-time.After(stuckPause):
		return &restart.Needed{Reason: fmt.Sprintf("containerd cannot start again in this process: %v", cause)}
	case <-ctx.Done():
		return nil
	}
}

// serve runs the server from configuration to stop.
func (c *Containerd) serve(ctx context.Context, cancel context.CancelCauseFunc, wg *sync.WaitGroup, etc string, cfg Config, ready func()) error {
	if c.stuck != nil {
		return newProcess(ctx, c.stuck)
	}
	if err := claimSockets(ctx, cfg.Address, cfg.TTRPCAddress); err != nil {
		return err
	}
	path, err := cfg.write(etc)
	if err != nil {
		return err
	}
	if err := repairMetadata(cfg.Root, time.Now(), c.opts.Logger); err != nil {
		return err
	}
	srv, err := startServer(ctx, path, c.opts.Logger)
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped while starting
		}
		if errors.Is(err, errHalfStarted) {
			c.stuck = err
		}
		return err
	}
	defer srv.stop()

	client, err := dial(cfg.Address)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	importer := images.New(images.Options{
		Dir: c.ImagesDir(), Snapshotter: cfg.Snapshotter, DiscardUnpackedLayers: cfg.DiscardUnpackedLayers,
		Pull: client.pull, Imported: c.opts.ImagesImported, Logger: c.opts.Logger,
	}, client.Client)
	if err := c.becomeReady(ctx, srv, client, importer); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	c.mu.Lock()
	c.importer = importer
	c.mu.Unlock()
	ready()

	var background sync.WaitGroup
	defer background.Wait() // before srv.stop, which it needs
	background.Go(func() {
		if err := importer.Run(ctx); err != nil {
			cancel(err)
		}
	})
	wg.Go(func() {
		if err := sweepBroken(ctx, cfg.Root); err != nil {
			c.opts.Logger.Warn("broken snapshots stay on the disk", "error", err)
		}
	})
	select {
	case err := <-srv.failed():
		cancel(err)
		return fmt.Errorf("containerd: %w", err)
	case <-ctx.Done():
		return nil
	}
}

// becomeReady waits until pods can be run.
func (c *Containerd) becomeReady(ctx context.Context, srv *server, client *client, importer *images.Importer) error {
	if err := srv.waitReady(ctx); err != nil {
		return err
	}
	if err := client.check(ctx); err != nil {
		return err
	}
	if c.opts.PauseArchive == "" {
		return nil
	}
	if err := importer.EnsureBuiltin(ctx, c.opts.PauseImage, c.opts.PauseArchive); err != nil {
		if c.opts.PauseImage != DefaultPauseImage {
			return nil // one of the user's own, which is pulled
		}
		return fmt.Errorf("pause image: %w", err)
	}
	return nil
}

// config decides containerd's configuration by looking at the machine.
func (c *Containerd) config(etc string) (Config, error) {
	o := c.opts
	run := filepath.Join(o.RunDir, "containerd")
	root := filepath.Join(o.DataDir, "agent", "containerd")
	_, err := os.Stat(filepath.Join(etc, templateFile))
	templated := err == nil
	snapshotter, warning, err := chooseSnapshotter(o.Snapshotter, templated, snapshotterInUse(root, snapshotterOverlay),
		func() error { return probeOverlay(root) })
	if err != nil {
		return Config{}, err
	}
	if warning != "" {
		o.Logger.Warn(warning)
	}
	cfg := Config{
		Root: root, State: run,
		Address: SocketPath(o.RunDir), TTRPCAddress: SocketPath(o.RunDir) + ".ttrpc",
		ShimSocketDir: filepath.Join(run, "s"),
		Snapshotter:   snapshotter, Platform: platforms.DefaultString(), PauseImage: o.PauseImage,
		CertsDir:               filepath.Join(etc, "certs.d"),
		MaxConcurrentDownloads: maxConcurrentDownloads, DiscardUnpackedLayers: o.DiscardUnpackedLayers,
		CNIBinDirs: []string{o.PayloadBin}, CNIConfDir: filepath.Join(o.DataDir, "agent", "etc", "cni", "net.d"),
		Runtimes: findRuntimes(o.PayloadBin, os.Stat), DefaultRuntime: o.DefaultRuntime,
		SystemdCgroup: o.SystemdCgroup, RestrictOOMScoreAdj: o.RestrictOOMScoreAdj,
		EnableSELinux: selinuxUsable(), EnableNRI: o.EnableNRI,
		DeviceOwnershipFromSecurityContext: o.DeviceOwnershipFromSecurityContext,
	}
	if o.ForeignNetwork {
		cfg.CNIBinDirs, cfg.CNIConfDir = append(cfg.CNIBinDirs, "/opt/cni/bin"), "/etc/cni/net.d"
	}
	for _, s := range []string{snapshotterOverlay, snapshotterNative} {
		if s != snapshotter && snapshotterInUse(root, s) {
			cfg.OldSnapshotters = append(cfg.OldSnapshotters, s)
		}
	}
	if !templated {
		if err := cfg.validate(); err != nil {
			return Config{}, err
		}
	}
	return cfg, nil
}

// maxConcurrentDownloads is upstream's default: more layers at once fill the
// memory of small machines and do not make a slow line faster.
const maxConcurrentDownloads = 3

// selinuxUsable reports whether the kernel enforces SELinux and the policy for
// containers is installed, which the labels of containers are read from.
func selinuxUsable() bool {
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
		return false
	}
	matches, err := filepath.Glob("/etc/selinux/*/contexts/lxc_contexts")
	return err == nil && len(matches) > 0
}
