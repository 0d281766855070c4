package approve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	certificateslisters "k8s.io/client-go/listers/certificates/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/noderecord"
)

const (
	// Name is the component's name.
	Name = "approver"

	// workers is how many requests are decided side by side; each is three or
	// four round trips to the API server of the same machine.
	workers        = 4
	requestTimeout = 10 * time.Second
	retryFirst     = 20 * time.Millisecond
	retryMost      = time.Minute
)

// Options are what a Controller needs.
type Options struct {
	// Config reaches the API server as limpet:approver.
	Config *rest.Config
	Policy Policy
	Logger *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Controller decides requests as they come, and keeps the records of nodes.
type Controller struct {
	client kubernetes.Interface
	policy Policy
	log    *slog.Logger
	now    func() time.Time
}

// New returns a Controller; Run may be called again when it has returned.
func New(o Options) (*Controller, error) {
	config := rest.CopyConfig(o.Config)
	config.QPS = -1 // the apiserver of this process: fairness is its business
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("client of the approver: %w", err)
	}
	return newController(client, o), nil
}

func newController(client kubernetes.Interface, o Options) *Controller {
	c := &Controller{client: client, policy: o.Policy, log: o.Logger, now: o.Now}
	if c.now == nil {
		c.now = time.Now
	}
	return c
}

// Name implements component.Component.
func (c *Controller) Name() string { return Name }

// item is what is worked on: a request, or the record of a node.
type item struct {
	record bool
	name   string // of the CertificateSigningRequest or the node
}

// run is the state of one Run.
type run struct {
	*Controller
	csrs   certificateslisters.CertificateSigningRequestLister
	nodes  corelisters.NodeLister
	queue  workqueue.TypedRateLimitingInterface[item]
	events record.EventRecorder

	mu      sync.Mutex
	waiting map[string]struct{} // requests that a change of a Node may decide
}

// Run decides until ctx is done.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	ctx = logging.Upstream(ctx, Name)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	factory := informers.NewSharedInformerFactoryWithOptions(c.client, 0, informers.WithTransform(strip))
	csrs, nodes := factory.Certificates().V1().CertificateSigningRequests(), factory.Core().V1().Nodes()
	r := &run{
		Controller: c, csrs: csrs.Lister(), nodes: nodes.Lister(), waiting: map[string]struct{}{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[item](retryFirst, retryMost)),
	}
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	r.events = r.recorder(broadcaster)

	if err := r.observe(csrs.Informer(), nodes.Informer()); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), csrs.Informer().HasSynced, nodes.Informer().HasSynced) {
		return nil
	}
	var group sync.WaitGroup
	for range workers {
		group.Go(func() { r.work(ctx) })
	}
	defer group.Wait()
	defer r.queue.ShutDown()
	ready()
	if err := r.enqueueRecords(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// observe fills the queue from what the informers see.
func (r *run) observe(csrs, nodes cache.SharedInformer) error {
	name := func(obj any) string {
		key, _ := cache.DeletionHandlingMetaNamespaceKeyFunc(obj) // fails on what is no object only
		return key
	}
	_, err := csrs.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { r.queue.Add(item{name: name(obj)}) },
		UpdateFunc: func(_, obj any) { r.queue.Add(item{name: name(obj)}) },
		DeleteFunc: func(obj any) { r.queue.Add(item{name: name(obj)}) },
	})
	if err != nil {
		return fmt.Errorf("watch certificate requests: %w", err)
	}
	_, err = nodes.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, initial bool) {
			r.wake()
			if !initial { // those are looked at with their records
				r.queue.Add(item{record: true, name: name(obj)})
			}
		},
		UpdateFunc: func(old, obj any) {
			if addressesDiffer(old.(*corev1.Node), obj.(*corev1.Node)) {
				r.wake()
			}
		},
		DeleteFunc: func(obj any) {
			r.wake()
			r.queue.Add(item{record: true, name: name(obj)})
		},
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	return nil
}

// wake looks again at requests that wait for a Node.
func (r *run) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.waiting {
		r.queue.Add(item{name: name})
	}
}

func (r *run) setWaiting(name string, waits bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if waits {
		r.waiting[name] = struct{}{}
	} else {
		delete(r.waiting, name)
	}
}

// work takes items off the queue until it is shut down.
func (r *run) work(ctx context.Context) {
	for {
		it, shutdown := r.queue.Get()
		if shutdown {
			return
		}
		sync := r.decide
		if it.record {
			sync = r.keep
		}
		itemCtx, cancel := context.WithTimeout(ctx, requestTimeout)
		err := sync(itemCtx, it.name)
		cancel()
		switch {
		case err == nil, ctx.Err() != nil:
			r.queue.Forget(it)
		default:
			if !errors.Is(err, errChanged) {
				r.log.Warn("will try again", "error", err)
			}
			r.queue.AddRateLimited(it)
		}
		r.queue.Done(it)
	}
}

// errChanged: somebody else wrote what was to be written. It is looked at again.
var errChanged = errors.New("it changed meanwhile")

// decide carries out the decision on one request.
func (r *run) decide(ctx context.Context, name string) error {
	csr, err := r.csrs.Get(name)
	if apierrors.IsNotFound(err) {
		r.setWaiting(name, false)
		return nil
	}
	if err != nil {
		return fmt.Errorf("get certificate request %s: %w", name, err)
	}
	request, decision := Inspect(csr, r.policy)
	var old *corev1.Secret
	if decision == nil {
		var state State
		if state, old, err = r.state(ctx, request); err != nil {
			return err
		}
		d := request.Judge(r.policy, state)
		decision = &d
	}
	r.setWaiting(name, decision.Verdict == Wait)
	log := r.log.With("request", name, "user", csr.Spec.Username, "kind", string(request.Kind), "node", request.Node)
	switch decision.Verdict {
	case Approve:
		if err := r.write(ctx, old, decision.Record); err != nil {
			return err
		}
		err = r.close(ctx, csr, certificatesv1.CertificateApproved, *decision)
		if err == nil {
			log.Info("approved a certificate", "why", decision.Message)
			if request.Kind == Join {
				r.queue.Add(item{record: true, name: request.Node})
			}
		}
		return err
	case Deny:
		err = r.close(ctx, csr, certificatesv1.CertificateDenied, *decision)
		if err == nil {
			log.Warn("denied a certificate", "reason", decision.Reason, "why", decision.Message)
			r.tell(csr, request, *decision)
		}
		return err
	case Wait:
		log.Info("a certificate waits", "why", decision.Message, "until", decision.Until)
		r.queue.AddAfter(item{name: name}, decision.Until.Sub(r.now()))
	case Ignore:
	}
	return nil
}

// state gathers what Judge needs, and the Secret of the record, whose
// resourceVersion the next write must meet. Who joins is compared with the
// present, and not with what the informer has heard so far.
func (r *run) state(ctx context.Context, request Request) (State, *corev1.Secret, error) {
	s := State{Now: r.now()}
	var err error
	if request.Kind == Join {
		s.Node, err = r.client.CoreV1().Nodes().Get(ctx, request.Node, metav1.GetOptions{})
	} else {
		s.Node, err = r.nodes.Get(request.Node)
	}
	if apierrors.IsNotFound(err) {
		s.Node, err = nil, nil
	}
	if err != nil {
		return State{}, nil, fmt.Errorf("get node %s: %w", request.Node, err)
	}
	if request.Kind == Serving {
		if s.Nodes, err = r.nodes.List(everything()); err != nil {
			return State{}, nil, fmt.Errorf("list nodes: %w", err)
		}
	}
	if request.Fingerprint == "" {
		return s, nil, nil
	}
	secret, err := r.secret(ctx, request.Node)
	if err != nil || secret == nil {
		return s, nil, err
	}
	found := noderecord.FromSecret(request.Node, secret)
	s.Record = &found
	return s, secret, nil
}

// close writes the condition that decides a request.
func (r *run) close(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType, d Decision) error {
	csr = csr.DeepCopy()
	csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: d.Reason, Message: d.Message, LastUpdateTime: metav1.NewTime(r.now()),
	})
	_, err := r.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{FieldManager: fieldManager})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return errChanged
	case err != nil:
		return fmt.Errorf("update certificate request %s: %w", csr.Name, err)
	}
	return nil
}

// recordSelector selects the Secrets that are records.
func recordSelector() string {
	return fields.OneTermEqualSelector("type", string(noderecord.SecretType)).String()
}
