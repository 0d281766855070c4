package standin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// feed is one watch that ends in the journal. It is the store of a reflector
// that keeps nothing.
type feed struct {
	recorder *Recorder
	kind     kind
	client   rest.Interface
	// namespace and name confine the watch; empty: all.
	namespace, name string
	selector        func(*metav1.ListOptions)
}

// feeds are the watches that run always; followRef adds those that pods ask for.
func (r *Recorder) feeds() []*feed {
	c := r.clients
	own := fields.OneTermEqualSelector("spec.nodeName", r.opts.NodeName).String()
	all := []*feed{
		r.feed(pods, c.kubelet.CoreV1().RESTClient(), fieldSelector(own)),
		r.feed(nodes, c.network.CoreV1().RESTClient(), nil),
		r.feed(runtimeClasses, c.kubelet.NodeV1().RESTClient(), nil),
		r.feed(csiDrivers, c.kubelet.StorageV1().RESTClient(), nil),
	}
	readers := c.proxy // of Services and what is behind them
	if readers == nil {
		readers = c.dns
	} else {
		all = append(all, r.feed(serviceCIDRs, c.proxy.NetworkingV1().RESTClient(), nil))
	}
	if readers != nil {
		all = append(all, r.feed(services, readers.CoreV1().RESTClient(), nil), r.feed(endpointSlices, readers.DiscoveryV1().RESTClient(), nil))
	}
	if c.dns != nil {
		all = append(all, r.feed(namespaces, c.dns.CoreV1().RESTClient(), nil))
		for _, name := range dnsConfigMaps() {
			all = append(all, r.feedOne(ref{configMaps, metav1.NamespaceSystem, name}, c.dns.CoreV1().RESTClient()))
		}
	}
	return all
}

// dnsConfigMaps are the objects that DNS is configured with, besides what pods refer to.
func dnsConfigMaps() []string { return []string{"coredns", "coredns-custom"} }

func (r *Recorder) feed(resource string, client rest.Interface, selector func(*metav1.ListOptions)) *feed {
	if selector == nil {
		selector = func(*metav1.ListOptions) {}
	}
	return &feed{recorder: r, kind: r.kinds[resource], client: client, selector: selector}
}

func (r *Recorder) feedOne(o ref, client rest.Interface) *feed {
	f := r.feed(o.resource, client, fieldSelector(fields.OneTermEqualSelector(metav1.ObjectNameField, o.name).String()))
	f.namespace, f.name = o.namespace, o.name
	return f
}

// run watches until ctx is done. Errors are retried by the reflector, with growing pauses.
func (f *feed) run(ctx context.Context) {
	lw := cache.NewFilteredListWatchFromClient(f.client, f.kind.gvr.Resource, f.namespace, f.selector)
	reflector := cache.NewReflectorWithOptions(lw, f.kind.newObject(), f, cache.ReflectorOptions{
		Name: "offline-record " + f.prefix(),
	})
	reflector.RunWithContext(ctx)
}

// prefix is what the keys of the feed begin with; one object's is the whole key.
func (f *feed) prefix() string {
	if f.name != "" {
		return journalKey(f.kind.gvr.Resource, f.namespace, f.name)
	}
	return f.kind.gvr.Resource + "/"
}

// Transformer implements cache.TransformingStore: the first list is slim, too,
// while the reflector gathers it.
func (f *feed) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if o, ok := obj.(runtime.Object); ok {
			return slim(o, f.recorder.opts.NodeName), nil
		}
		return obj, nil
	}
}

// Add implements cache.ReflectorStore.
func (f *feed) Add(obj any) error { return f.Update(obj) }

// Update implements cache.ReflectorStore.
func (f *feed) Update(obj any) error {
	o, ok := obj.(runtime.Object)
	if !ok {
		return fmt.Errorf("record a %T", obj)
	}
	return f.recorder.put(f.kind.gvr.Resource, slim(o, f.recorder.opts.NodeName))
}

// Delete implements cache.ReflectorStore.
func (f *feed) Delete(obj any) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	f.recorder.remove(journalKey(f.kind.gvr.Resource, m.GetNamespace(), m.GetName()), f.kind.gvr.Resource)
	return nil
}

// Replace implements cache.ReflectorStore: what the server does not list is gone.
func (f *feed) Replace(list []any, _ string) error {
	listed := make(map[string]bool, len(list))
	var errs []error
	for _, obj := range list {
		m, err := meta.Accessor(obj)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		listed[journalKey(f.kind.gvr.Resource, m.GetNamespace(), m.GetName())] = true
		errs = append(errs, f.Update(obj))
	}
	for _, key := range f.recorder.known(f.prefix()) {
		if !listed[key] && f.covers(key) {
			f.recorder.remove(key, f.kind.gvr.Resource)
		}
	}
	if f.kind.gvr.Resource == pods {
		f.recorder.sweep()
	}
	return errors.Join(errs...)
}

// covers reports whether a key with the feed's prefix is the feed's.
func (f *feed) covers(key string) bool { return f.name == "" || key == f.prefix() }

// Resync implements cache.ReflectorStore.
func (f *feed) Resync() error { return nil }

// known lists the keys with a prefix that are stored or wait to be.
func (r *Recorder) known(prefix string) []string {
	keys := r.opts.Journal.Keys(prefix)
	r.mu.Lock()
	defer r.mu.Unlock()
	for key := range r.pending.changes {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	return keys
}

// followRef records an object for as long as a pod refers to it.
func (r *Recorder) followRef(ctx context.Context, o ref) {
	core := r.clients.kubelet.CoreV1().RESTClient()
	if o.resource != claims {
		r.feedOne(o, core).run(ctx)
		return
	}
	// A node may get a claim and its volume, not watch them. Both change
	// little once a pod of the node uses them.
	const first, longest = 2 * time.Second, 5 * time.Minute
	for pause := first; ; pause = min(2*pause, longest) {
		if r.recordClaim(ctx, o) == nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// recordClaim records a claim and the volume that it is bound to.
func (r *Recorder) recordClaim(ctx context.Context, o ref) error {
	claim, err := r.clients.kubelet.CoreV1().PersistentVolumeClaims(o.namespace).Get(ctx, o.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return errors.New("not bound yet")
	}
	volume, err := r.clients.kubelet.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	claimData, err := encode(slim(claim, r.opts.NodeName))
	if err != nil {
		return err
	}
	volumeData, err := encode(slim(volume, r.opts.NodeName))
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.followed[o] == nil {
		return nil // no pod refers to it any more
	}
	r.set(o.key(), claims, claimData)
	r.set(o.volumeKey(), volumes, volumeData)
	return nil
}
