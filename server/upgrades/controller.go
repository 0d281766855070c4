package upgrades

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/limpetio/limpet/internal/logging"
)

// Name is the controller's name as a component.
const Name = "upgrade-plans"

const (
	// retryMin and retryMax bound the delay between attempts after an error.
	retryMin, retryMax = 250 * time.Millisecond, 30 * time.Second
	// drainPause is between two rounds of evictions: what a disruption budget
	// refuses is to be asked for again, as `kubectl drain` does.
	drainPause = 2 * time.Second
	// lookAgain is when a plan is looked at again that lacks the server's release or
	// waits for the server's upgrade: no event tells of files.
	lookAgain = 10 * time.Second

	fieldManager = "limpet-upgrade-plans"
	// cordonAnnotation holds the UID of the plan that has cordoned a node.
	cordonAnnotation = "limpet.io/upgrade-cordoned"
)

// Options of a Controller; all are required.
type Options struct {
	// RestConfig is the identity limpet:upgrades.
	RestConfig *rest.Config
	// Version is what this server runs.
	Version string
	// Served returns the architectures for which this server can give out Version.
	Served func() map[string]bool
	// Unsettled: this server is being upgraded itself, and may go back.
	Unsettled func() bool
	// Logger carries component=upgrade-plans.
	Logger *slog.Logger
}

// Controller is a component.Component.
type Controller struct {
	opts Options
	wake chan struct{}
}

// New returns a controller that [Controller.Run] runs.
func New(opts Options) *Controller {
	return &Controller{opts: opts, wake: make(chan struct{}, 1)}
}

// Name implements component.Component.
func (c *Controller) Name() string { return Name }

// run is the state of one Run.
type run struct {
	*Controller
	client  kubernetes.Interface
	plans   dynamic.ResourceInterface
	watched watched
	events  record.EventRecorder
	drained map[string]drained
}

// Run follows plans and Nodes until ctx is done. It is ready at once: that plans
// cannot be carried out keeps nobody from using the cluster.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	ctx = logging.Upstream(ctx, Name)
	ctx, cancel := context.WithCancel(ctx)
	r, err := c.prepare()
	if err != nil {
		cancel()
		return err
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	r.events = r.recorder(broadcaster)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, i := range []informer{r.watched.plans, r.watched.nodes} {
		wg.Go(func() { i.ctl.RunWithContext(ctx) })
	}
	ready()
	if !cache.WaitFor(ctx, "", r.watched.plans.ctl.HasSyncedChecker(), r.watched.nodes.ctl.HasSyncedChecker()) {
		return nil
	}
	r.loop(ctx)
	return nil
}

func (c *Controller) prepare() (*run, error) {
	cfg := rest.CopyConfig(c.opts.RestConfig)
	cfg.QPS = -1 // the apiserver of this process: fairness is its business
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	plans := dyn.Resource(Resource())
	return &run{Controller: c, client: client, plans: plans, watched: c.watch(client, plans), drained: map[string]drained{}}, nil
}

// loop reconciles at every change until ctx is done.
func (r *run) loop(ctx context.Context) {
	backoff := retryMin
	for {
		again, err := r.reconcile(ctx)
		switch {
		case err == nil:
			backoff = retryMin
		case ctx.Err() == nil:
			r.opts.Logger.Debug("upgrade plans: will try again", "error", err)
			if backoff >= retryMax {
				r.opts.Logger.Warn("upgrade plans cannot be followed", "error", err)
			}
			again, backoff = backoff, min(2*backoff, retryMax)
		}
		var timer <-chan time.Time
		if again > 0 {
			timer = time.After(again)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-timer:
		}
	}
}

// reconcile carries out what decide says. Its own writes come back as events and
// start it again. again is when it is to be called without one; 0: not.
func (r *run) reconcile(ctx context.Context) (again time.Duration, err error) {
	s, err := r.state()
	if err != nil {
		return 0, err
	}
	d := decide(s)
	var errs []error
	for _, p := range s.plans {
		status, differs := d.statuses[p.Name]
		if !differs {
			status = p.Status
		} else if err := r.writeStatus(ctx, p, status); err != nil {
			errs = append(errs, err)
		}
		if why := reasonOf(status, AcceptedCondition); why == "NoRelease" || why == "ServerUpgrade" {
			again = lookAgain
		}
	}
	for _, c := range d.patches {
		errs = append(errs, r.patch(ctx, c))
	}
	if len(d.drains) > 0 {
		again = drainPause
	}
	r.drainAll(ctx, d.drains)
	return again, errors.Join(errs...)
}

// state is what the watches have told so far.
func (r *run) state() (state, error) {
	s := state{now: time.Now(), server: r.opts.Version, drained: r.drained, nodes: r.watched.nodeList()}
	var err error
	if s.plans, err = r.watched.planList(); err != nil {
		return s, err
	}
	s.unsettled = len(s.plans) > 0 && r.opts.Unsettled()
	for _, p := range s.plans {
		if p.Spec.URL == "" {
			s.served = r.opts.Served()
			break
		}
	}
	return s, nil
}

// writeStatus fails when the plan is another one than was read: that is what
// keeps two nodes from having the same turn.
func (r *run) writeStatus(ctx context.Context, p *Plan, s Status) error {
	object, err := p.withStatus(s)
	if err != nil {
		return err
	}
	_, err = r.plans.UpdateStatus(ctx, object, metav1.UpdateOptions{FieldManager: fieldManager})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("update the status of %s %s: %w", kind, p.Name, err)
	}
	r.tell(p, s)
	return nil
}

// tell makes what has newly happened known in log and Events.
func (r *run) tell(p *Plan, now Status) {
	about := &corev1.ObjectReference{APIVersion: Resource().GroupVersion().String(), Kind: kind, Name: p.Name, UID: p.UID}
	before := map[string]NodePhase{}
	for _, rec := range p.Status.Nodes {
		before[rec.Name] = rec.Phase
	}
	log := r.opts.Logger.With("plan", p.Name, "version", now.Version)
	if why := reasonOf(now, AcceptedCondition); now.Phase == Refused && why != "ServerUpgrade" && why != reasonOf(p.Status, AcceptedCondition) {
		log.Warn("an upgrade plan is not carried out", "reason", now.Message)
		r.events.Event(about, corev1.EventTypeWarning, reasonOf(now, AcceptedCondition), now.Message)
	}
	for _, rec := range now.Nodes {
		if before[rec.Name] == rec.Phase {
			continue
		}
		switch rec.Phase {
		case Draining, Upgrading:
			log.Info("a node has its turn", "node", rec.Name, "phase", string(rec.Phase), "from", rec.From)
		case Upgraded:
			if before[rec.Name].underWay() {
				log.Info("a node was upgraded", "node", rec.Name, "from", rec.From)
				r.events.Eventf(about, corev1.EventTypeNormal, "NodeUpgraded", "node %s runs %s (before: %s)", rec.Name, now.Version, rec.From)
			}
		case Failed:
			log.Warn("a node was not upgraded; the plan stops", "node", rec.Name, "reason", rec.Reason)
			r.events.Eventf(about, corev1.EventTypeWarning, "NodeFailed", "node %s was not upgraded to %s: %s", rec.Name, now.Version, rec.Reason)
		case Pending, Skipped:
		}
	}
}

func reasonOf(s Status, condition string) string {
	for _, c := range s.Conditions {
		if c.Type == condition {
			return c.Reason
		}
	}
	return ""
}

// patch changes a Node, unless it has been made anew meanwhile.
func (r *run) patch(ctx context.Context, c patch) error {
	data, err := json.Marshal(c.merge())
	if err != nil {
		return err
	}
	_, err = r.client.CoreV1().Nodes().Patch(ctx, c.node, types.MergePatchType, data, metav1.PatchOptions{FieldManager: fieldManager})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // the watch will tell
	}
	if err != nil {
		return fmt.Errorf("patch node %s: %w", c.node, err)
	}
	return nil
}

// merge is the merge patch; the UID is a precondition.
func (c patch) merge() map[string]any {
	annotations := map[string]any{}
	out := map[string]any{}
	if c.request != nil {
		annotations[requestAnnotation] = nilIfEmpty(*c.request)
	}
	if c.cordon != nil {
		annotations[cordonAnnotation] = nilIfEmpty(c.cordon.plan)
		out["spec"] = map[string]any{"unschedulable": nilUnless(c.cordon.on)}
	}
	out["metadata"] = map[string]any{"uid": c.uid, "annotations": annotations}
	return out
}

func nilIfEmpty(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func nilUnless(b bool) any {
	if !b {
		return nil
	}
	return b
}
