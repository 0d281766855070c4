package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/internal/component"
)

const componentName = "limpet-deploy"

var _ component.Component = (*Controller)(nil)

// Options configure a Controller. Config, Dir, Embedded and Logger are required.
type Options struct {
	// Config is how to reach the apiserver, as someone who may do everything.
	Config *rest.Config
	// Dir is the manifests directory; it is created (0700) when it is missing.
	Dir string
	// Embedded holds manifests in its root, in which %{NAME}% stands for
	// Variables["NAME"].
	Embedded  fs.FS
	Variables map[string]string
	// Disable names files, without directory and extension, that are not to be
	// deployed; what they deployed before is removed.
	Disable []string
	// Owner tells the servers of a cluster apart, each of which has a
	// directory of its own: the objects of other owners' files are left
	// alone. Empty while there is one server.
	Owner  string
	Logger *slog.Logger
}

// Controller applies manifests; see the package comment. It is a
// component.Component.
type Controller struct {
	opts     Options
	dirOrig  origin
	disabled map[string]bool
	executor *executor
	journal  *journal
	reporter *reporter
	ledger   *ledger
	log      *slog.Logger

	// release says that the directory was missing at start: the objects of
	// its files are kept and their records given up.
	release bool
}

// New prepares a controller. It asks nothing of the cluster yet.
func New(opts Options) (*Controller, error) {
	cfg := rest.CopyConfig(opts.Config)
	cfg.QPS = -1 // the apiserver's priority and fairness is what limits us
	cfg.UserAgent = "limpet/deploy"
	cluster, err := newCluster(cfg)
	if err != nil {
		return nil, err
	}
	core, err := corev1client.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make client for manifests: %w", err)
	}
	disabled := make(map[string]bool, len(opts.Disable))
	for _, name := range opts.Disable {
		disabled[name] = true
	}
	records := &journal{maps: core.ConfigMaps(recordNamespace), log: opts.Logger}
	return &Controller{
		opts:     opts,
		dirOrig:  directoryOf(opts.Owner),
		disabled: disabled,
		executor: &executor{objects: cluster, journal: records},
		journal:  records,
		reporter: &reporter{events: core.Events(recordNamespace), log: opts.Logger},
		ledger:   &ledger{now: time.Now, files: make(map[fileID]*entry)},
		log:      opts.Logger,
	}, nil
}

// Name is the name of the component.
func (c *Controller) Name() string { return "deploy" }

// Status tells what became of each file, embedded ones first. It may be called
// at any time.
func (c *Controller) Status() []FileStatus { return c.ledger.statuses() }

// Run applies the embedded manifests, calls ready when the apiserver has dealt
// with each of them once, and then follows the manifests directory until ctx is
// done. An error means that the directory cannot be created or watched.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	if _, err := c.embedded(); err != nil {
		return err // a mistake in the program; trying again would not help
	}
	// First without the directory: the rest of the node waits for these.
	isReady := c.pass(ctx, nil, true)
	if isReady {
		ready()
	}
	if err := c.prepareDirectory(); err != nil {
		return err
	}
	watch, err := newWatcher()
	if err != nil {
		return err
	}
	defer watch.close()
	scan := &scanner{dir: c.opts.Dir, origin: c.dirOrig, disabled: c.disabled, visit: watch.add}
	for changed := true; ctx.Err() == nil; {
		served := c.pass(ctx, scan, changed)
		if served && !isReady {
			isReady = true
			ready()
		}
		if changed, err = watch.wait(ctx, c.ledger.next()); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) embedded() ([]file, error) {
	return readEmbedded(c.opts.Embedded, c.opts.Variables, c.disabled, c.opts.Dir)
}

// prepareDirectory creates the directory when it is missing.
func (c *Controller) prepareDirectory() error {
	_, err := os.Stat(c.opts.Dir)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("manifests directory: %w", err)
	}
	if err := os.MkdirAll(c.opts.Dir, 0o700); err != nil {
		return fmt.Errorf("create manifests directory: %w", err)
	}
	c.release = true
	return nil
}
