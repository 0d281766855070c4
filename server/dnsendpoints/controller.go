// Package dnsendpoints leads the Service kube-dns to the DNS servers of the nodes.
//
// Every node with a DNS server says where it answers in an annotation of its
// own Node ([dns.Annotation]). This controller, in the server, makes
// EndpointSlices of these, so that a node needs no right to write them: it
// checks that the addresses are the node's own.
package dnsendpoints

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/limpetio/limpet/internal/dns"
)

// Name is the controller's name as a component.
const Name = "dns-endpoints"

// retryMin and retryMax bound the delay between attempts after an error.
const retryMin, retryMax = 250 * time.Millisecond, 30 * time.Second

// Options of a Controller; all are required.
type Options struct {
	// RestConfig is an identity that may watch nodes, and services and endpointslices of
	// kube-system, and write the latter.
	RestConfig *rest.Config
	// Logger carries component=dns-endpoints.
	Logger *slog.Logger
}

// Controller is a component.Component.
type Controller struct {
	opts    Options
	wake    chan struct{}
	refused map[string]string // as logged last
}

// New returns a controller that [Controller.Run] runs.
func New(opts Options) *Controller {
	return &Controller{opts: opts, wake: make(chan struct{}, 1)}
}

// Name implements component.Component.
func (c *Controller) Name() string { return Name }

// Run keeps the EndpointSlices right until ctx is done. It is ready when it
// knows all that it decides from.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	cfg := rest.CopyConfig(c.opts.RestConfig)
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	w := c.watch(client)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, i := range []informer{w.service, w.nodes, w.slices} {
		wg.Go(func() { i.ctl.RunWithContext(ctx) })
	}
	if !cache.WaitFor(ctx, "", w.service.ctl.HasSyncedChecker(), w.nodes.ctl.HasSyncedChecker(), w.slices.ctl.HasSyncedChecker()) {
		return nil
	}
	ready()
	c.loop(ctx, w, client)
	return nil
}

// loop reconciles at every change until ctx is done.
func (c *Controller) loop(ctx context.Context, w watches, client kubernetes.Interface) {
	backoff := retryMin
	for {
		var retry <-chan time.Time
		if err := c.reconcile(ctx, w.state(), client); err == nil {
			backoff = retryMin
		} else if ctx.Err() == nil {
			c.opts.Logger.Debug("DNS endpoints are not right yet", "error", err)
			if backoff >= retryMax {
				c.opts.Logger.Warn("the Service kube-dns cannot be led to the nodes' DNS servers", "error", err)
			}
			retry = time.After(backoff)
			backoff = min(2*backoff, retryMax)
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-retry:
		}
	}
}

// reconcile carries out what plan says. Its own writes come back as events and
// start it again, until there is nothing to do.
func (c *Controller) reconcile(ctx context.Context, s state, client kubernetes.Interface) error {
	a := plan(s)
	c.report(a.refused)
	api := client.DiscoveryV1().EndpointSlices(namespace)
	var errs []error
	for _, name := range a.remove {
		if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete EndpointSlice %s: %w", name, err))
		}
	}
	for _, es := range a.create {
		_, err := api.Create(ctx, es, metav1.CreateOptions{FieldManager: manager})
		if apierrors.IsAlreadyExists(err) { // somebody took our labels off: it is ours by its name
			_, err = api.Update(ctx, es, metav1.UpdateOptions{FieldManager: manager})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("create EndpointSlice %s: %w", es.Name, err))
		}
	}
	for _, es := range a.update {
		if _, err := api.Update(ctx, es, metav1.UpdateOptions{FieldManager: manager}); err != nil {
			errs = append(errs, fmt.Errorf("update EndpointSlice %s: %w", es.Name, err))
		}
	}
	return errors.Join(errs...)
}

// report logs what is newly refused.
func (c *Controller) report(refused map[string]string) {
	for node, why := range refused {
		if c.refused[node] != why {
			c.opts.Logger.Warn("the DNS server of a node is not used: its annotation "+dns.Annotation+" is not valid", "node", node, "reason", why)
		}
	}
	c.refused = refused
}

type informer struct {
	store cache.Store
	ctl   cache.Controller
}

type watches struct{ service, nodes, slices informer }

func (w watches) state() state {
	s := state{nodes: list[*corev1.Node](w.nodes), slices: list[*discoveryv1.EndpointSlice](w.slices)}
	if found := list[*corev1.Service](w.service); len(found) > 0 {
		s.service = found[0]
	}
	return s
}

func list[T any](i informer) []T {
	var out []T
	for _, obj := range i.store.List() {
		if o, ok := obj.(T); ok {
			out = append(out, o)
		}
	}
	return out
}

func (c *Controller) watch(client kubernetes.Interface) watches {
	byName := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, serviceName).String()
	}
	ours := func(o *metav1.ListOptions) {
		o.LabelSelector = labels.Set{discoveryv1.LabelServiceName: serviceName, discoveryv1.LabelManagedBy: manager}.String()
	}
	core := client.CoreV1().RESTClient()
	return watches{
		service: c.informer(core, "services", namespace, &corev1.Service{}, byName, slimService),
		nodes:   c.informer(core, "nodes", metav1.NamespaceAll, &corev1.Node{}, func(*metav1.ListOptions) {}, slimNode),
		slices:  c.informer(client.DiscoveryV1().RESTClient(), "endpointslices", namespace, &discoveryv1.EndpointSlice{}, ours, withoutManagedFields),
	}
}

func (c *Controller) informer(r rest.Interface, resource, ns string, obj runtime.Object, selector func(*metav1.ListOptions), slim cache.TransformFunc) informer {
	poke := func() {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	store, ctl := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewFilteredListWatchFromClient(r, resource, ns, selector),
		ObjectType:    obj,
		Transform:     slim,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { poke() },
			UpdateFunc: func(any, any) { poke() },
			DeleteFunc: func(any) { poke() },
		},
	})
	return informer{store: store, ctl: ctl}
}

// slimNode keeps of a Node what plan reads: a Node with its images is 10 KiB.
func slimNode(obj any) (any, error) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	slim := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, ResourceVersion: node.ResourceVersion, CreationTimestamp: node.CreationTimestamp},
		Status:     corev1.NodeStatus{Addresses: node.Status.Addresses},
	}
	if value, ok := node.Annotations[dns.Annotation]; ok {
		slim.Annotations = map[string]string{dns.Annotation: value}
	}
	if value, ok := node.Labels[controlPlane]; ok {
		slim.Labels = map[string]string{controlPlane: value}
	}
	for _, cond := range node.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			slim.Status.Conditions = []corev1.NodeCondition{{Type: cond.Type, Status: cond.Status}}
		}
	}
	return slim, nil
}

func slimService(obj any) (any, error) {
	service, ok := obj.(*corev1.Service)
	if !ok {
		return obj, nil
	}
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{
		Name: service.Name, Namespace: service.Namespace, UID: service.UID, ResourceVersion: service.ResourceVersion,
	}}, nil
}

func withoutManagedFields(obj any) (any, error) {
	if m, ok := obj.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return obj, nil
}
