package upgrades

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/internal/nodeupgrade"
	"github.com/limpetio/limpet/internal/upgrade"
)

// Name is the component's name.
const Name = "upgrades"

const (
	// retryMin and retryMax bound the delay between attempts to write the report.
	retryMin, retryMax = time.Second, time.Minute
	// progressEvery is how often the progress of a download is reported.
	progressEvery = 30 * time.Second
	fieldManager  = "limpet-upgrades"
)

// Options of Upgrades.
type Options struct {
	NodeName string
	// Version is what this process runs.
	Version string
	// RestConfig is the kubelet's identity.
	RestConfig func() (*rest.Config, error)
	// Online is closed when this process has reached a server: what the record of
	// this node says meanwhile, in place of a server, is out of date.
	Online <-chan struct{}
	// Node is told by others; Watch: nobody does.
	Node  *OwnNode
	Watch bool
	// Machine has the binary replaced.
	Machine Machine
	Logger  *slog.Logger
}

// Machine is this machine's limpet: internal/upgrade, but in tests.
type Machine interface {
	// Start prepares what is asked and hands over to the guard. The client has the
	// kubelet's identity.
	Start(ctx context.Context, r nodeupgrade.Request, client *http.Client, progress func(string)) error
	// Load returns the newest operation, nil if there has been none.
	Load() (*upgrade.Journal, error)
	// Await returns at the end of an operation, and calls changed whenever it goes on.
	Await(ctx context.Context, id string, changed func()) error
}

// Upgrades is a component.Component.
type Upgrades struct {
	opts Options
	wake chan struct{}
	// pause is the first one between two attempts; it doubles.
	pause time.Duration

	mu        sync.Mutex
	attempt   attempt
	failures  int
	stop      context.CancelFunc // of the attempt
	following string             // id of the operation that is awaited
}

// New returns the component; nothing happens before Run.
func New(opts Options) *Upgrades {
	return &Upgrades{opts: opts, wake: make(chan struct{}, 1), pause: pauseMin}
}

// Name implements component.Component.
func (u *Upgrades) Name() string { return Name }

// run is the state of one Run.
type run struct {
	*Upgrades
	client   kubernetes.Interface
	http     *http.Client
	reported string // the annotation as this process knows it
	tasks    sync.WaitGroup
}

// Run does what the server asks for until ctx is done. It is ready at once: a node
// is none the worse for an upgrade that cannot be had.
func (u *Upgrades) Run(ctx context.Context, ready func()) error {
	ready()
	select {
	case <-u.opts.Online:
	case <-ctx.Done():
		return nil
	}
	cfg, err := u.opts.RestConfig()
	if err != nil {
		return err
	}
	r := &run{Upgrades: u}
	if r.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	if r.http, err = rest.HTTPClientFor(cfg); err != nil {
		return fmt.Errorf("client: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer r.tasks.Wait()
	defer cancel()
	if u.opts.Watch {
		if err := u.opts.Node.follow(ctx, r.client, u.opts.NodeName); err != nil {
			return err
		}
	}
	r.loop(ctx)
	return nil
}

func (r *run) loop(ctx context.Context) {
	backoff := retryMin
	for {
		var retry <-chan time.Time
		if err := r.reconcile(ctx); err == nil {
			backoff = retryMin
		} else if ctx.Err() == nil {
			r.opts.Logger.Debug("the server does not know yet which version this node runs", "error", err)
			retry = time.After(backoff)
			backoff = min(2*backoff, retryMax)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.opts.Node.changed:
		case <-r.wake:
		case <-retry:
		}
	}
}

// poke has the loop look again.
func (u *Upgrades) poke() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}

// reconcile looks at everything and does what follows.
func (r *run) reconcile(ctx context.Context) error {
	own := r.opts.Node.get()
	if !own.known {
		return nil // the watch will wake us
	}
	if own.report == "" { // also when the Node was made anew
		r.reported = ""
	}
	if r.reported == "" {
		if err := r.readReport(ctx); err != nil {
			return err
		}
	}
	f := facts{node: r.opts.NodeName, running: r.opts.Version, request: own.request, asked: own.asked, attempt: r.current()}
	f.reported, _ = nodeupgrade.ParseReport(r.reported)
	journal, err := r.opts.Machine.Load()
	if err != nil {
		r.opts.Logger.Warn("the outcome of the last upgrade cannot be read", "error", err)
	}
	f.journal = journal
	s := decide(f)
	r.follow(ctx, s.follow)
	r.abandon(s.report.Request)
	// Nothing is begun before it was said: who looks from afar shall know why a node goes.
	if err := r.report(ctx, s.report); err != nil {
		return err
	}
	if s.start.UID != "" {
		r.start(ctx, s.start)
	}
	return nil
}

// readReport gets what an earlier run, or an earlier binary, has reported.
func (r *run) readReport(ctx context.Context) error {
	node, err := r.client.CoreV1().Nodes().Get(ctx, r.opts.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get node %s: %w", r.opts.NodeName, err)
	}
	r.reported = node.Annotations[nodeupgrade.ReportAnnotation]
	return nil
}

// report writes the annotation if it is another one.
func (r *run) report(ctx context.Context, report nodeupgrade.Report) error {
	text := report.String()
	if text == r.reported {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{nodeupgrade.ReportAnnotation: text}}})
	if err != nil {
		return err
	}
	_, err = r.client.CoreV1().Nodes().Patch(ctx, r.opts.NodeName, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil {
		return fmt.Errorf("report on node %s: %w", r.opts.NodeName, err)
	}
	r.reported = text
	return nil
}

// follow waits for the end of an operation: at each of its steps the loop looks again.
func (r *run) follow(ctx context.Context, id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id == "" || id == r.following {
		return
	}
	r.following = id
	r.tasks.Go(func() {
		if err := r.opts.Machine.Await(ctx, id, r.poke); err != nil && ctx.Err() == nil {
			r.opts.Logger.Warn("the upgrade of this node cannot be followed; it is tried again", "error", err)
			select {
			case <-time.After(pauseMin):
			case <-ctx.Done():
			}
		}
		r.mu.Lock()
		r.following = ""
		r.mu.Unlock()
		r.poke()
	})
}
