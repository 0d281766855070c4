package dns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	namespace       = "kube-system"
	mainConfigMap   = "coredns"
	customConfigMap = "coredns-custom"

	// nodesSettle is the least time between two configurations for changes of nodes' addresses: each
	// makes CoreDNS read all Services again, and nodes may come in numbers.
	nodesSettle = time.Second
)

// source watches the objects that decide the configuration.
type source struct {
	configs []watched // the two ConfigMaps
	nodes   watched
	reader  kubernetes.Interface
	// own writes with the identity of the own node's kubelet; nil: nothing is written.
	own     kubernetes.Interface
	ownName string
}

// watched is one informer.
type watched struct {
	store cache.Store
	ctl   cache.Controller
}

// newSource prepares the watches. changed is called after every event that may
// change the configuration, ownChanged after those of the own Node.
func newSource(o Options, changed, ownChanged func()) (*source, error) {
	client, err := newClient(o.RestConfig)
	if err != nil {
		return nil, err
	}
	s := &source{reader: client, ownName: o.NodeName}
	if o.NodeConfig != nil {
		if s.own, err = newClient(o.NodeConfig); err != nil {
			return nil, err
		}
	}
	core := client.CoreV1().RESTClient()
	for _, name := range []string{mainConfigMap, customConfigMap} {
		s.configs = append(s.configs, watch(core, "configmaps", namespace, &corev1.ConfigMap{}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}, dropManagedFields, func(_, _ any) { changed() }))
	}
	calm := calmed(nodesSettle, changed)
	s.nodes = watch(core, "nodes", "", &corev1.Node{}, func(*metav1.ListOptions) {}, onlyWhatIsRead, func(before, after any) {
		s.nodeChanged(before, after, calm, ownChanged)
	})
	return s, nil
}

func newClient(cfg *rest.Config) (kubernetes.Interface, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make DNS client: %w", err)
	}
	return client, nil
}

// watch prepares an informer; changed gets the object before and after every event, nil where there was or is none.
func watch(c rest.Interface, resource, ns string, obj runtime.Object, selector func(*metav1.ListOptions),
	transform cache.TransformFunc, changed func(before, after any)) watched {
	store, ctl := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewFilteredListWatchFromClient(c, resource, ns, selector),
		ObjectType:    obj,
		Transform:     transform,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { changed(nil, obj) },
			UpdateFunc: func(before, after any) { changed(before, after) },
			DeleteFunc: func(obj any) { changed(obj, nil) },
		},
	})
	return watched{store: store, ctl: ctl}
}

// nodeChanged tells who is concerned by a change of a Node. Most changes are
// heartbeats and concern nobody.
func (s *source) nodeChanged(before, after any, addresses, own func()) {
	old, _ := before.(*corev1.Node)
	now, _ := after.(*corev1.Node)
	if now != nil && now.Name == s.ownName {
		own()
	}
	if old == nil || now == nil || !slices.Equal(old.Status.Addresses, now.Status.Addresses) {
		addresses()
	}
}

// calmed returns a function that calls f at once, and after d once more for all its calls until then.
func calmed(d time.Duration, f func()) func() {
	var calm, again atomic.Bool
	var call func()
	call = func() {
		if !calm.CompareAndSwap(false, true) {
			again.Store(true)
			return
		}
		f()
		time.AfterFunc(d, func() {
			calm.Store(false)
			if again.CompareAndSwap(true, false) {
				call()
			}
		})
	}
	return call
}

// run watches until ctx is done.
func (s *source) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, w := range append(slices.Clone(s.configs), s.nodes) {
		wg.Go(func() { w.ctl.RunWithContext(ctx) })
	}
	wg.Wait()
}

// waitSynced waits until all that is watched is known, at most the time given.
func (s *source) waitSynced(ctx context.Context, atMost time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	return cache.WaitFor(ctx, "", s.configs[0].ctl.HasSyncedChecker(), s.configs[1].ctl.HasSyncedChecker(), s.nodes.ctl.HasSyncedChecker())
}

// config returns the data of the two ConfigMaps; found is false while the main one does not exist.
func (s *source) config() (main, custom map[string]string, found bool) {
	if cm := s.configMap(0); cm != nil {
		main, found = cm.Data, true
	}
	if cm := s.configMap(1); cm != nil {
		custom = cm.Data
	}
	return main, custom, found
}

func (s *source) configMap(i int) *corev1.ConfigMap {
	for _, obj := range s.configs[i].store.List() {
		if cm, ok := obj.(*corev1.ConfigMap); ok {
			return cm
		}
	}
	return nil
}

// nodeAddresses returns the internal addresses of all nodes: programs in the
// host network of another node ask from there.
func (s *source) nodeAddresses() []netip.Addr {
	var out []netip.Addr
	for _, obj := range s.nodes.store.List() {
		node, ok := obj.(*corev1.Node)
		if !ok {
			continue
		}
		for _, a := range node.Status.Addresses {
			if a.Type != corev1.NodeInternalIP {
				continue
			}
			if ip, err := netip.ParseAddr(a.Address); err == nil {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out
}

// node returns the Node of that name, nil if it is not known.
func (s *source) node(name string) *corev1.Node {
	obj, _, _ := s.nodes.store.GetByKey(name)
	node, _ := obj.(*corev1.Node)
	return node
}

func dropManagedFields(obj any) (any, error) {
	if m, ok := obj.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return obj, nil
}

// onlyWhatIsRead keeps of a Node what we read: a Node with its images is 10 KiB.
func onlyWhatIsRead(obj any) (any, error) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	slim := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, ResourceVersion: node.ResourceVersion},
		Status:     corev1.NodeStatus{Addresses: node.Status.Addresses},
	}
	if value, there := node.Annotations[Annotation]; there {
		slim.Annotations = map[string]string{Annotation: value}
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			slim.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return slim, nil
}
