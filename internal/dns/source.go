package dns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
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
)

// source watches the objects that decide the configuration.
type source struct {
	client  kubernetes.Interface
	configs []watched // the two ConfigMaps
	nodes   watched
	slices  watched // our EndpointSlices; only with publishing
}

// watched is one informer.
type watched struct {
	store cache.Store
	ctl   cache.Controller
}

// newSource prepares the watches; changed is called after every event, published
// after every event of our EndpointSlices.
func newSource(cfg *rest.Config, changed, published func()) (*source, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make DNS client: %w", err)
	}
	s := &source{client: client}
	core := client.CoreV1().RESTClient()
	for _, name := range []string{mainConfigMap, customConfigMap} {
		s.configs = append(s.configs, watch(core, "configmaps", namespace, &corev1.ConfigMap{}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}, dropManagedFields, changed))
	}
	s.nodes = watch(core, "nodes", "", &corev1.Node{}, func(*metav1.ListOptions) {}, onlyAddresses, changed)
	s.slices = watch(client.DiscoveryV1().RESTClient(), "endpointslices", namespace, &discoveryv1.EndpointSlice{}, func(o *metav1.ListOptions) {
		o.LabelSelector = discoveryv1.LabelServiceName + "=" + serviceName + "," + discoveryv1.LabelManagedBy + "=" + fieldManager
	}, dropManagedFields, published)
	return s, nil
}

func watch(c rest.Interface, resource, ns string, obj runtime.Object, selector func(*metav1.ListOptions),
	transform cache.TransformFunc, changed func()) watched {
	store, ctl := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewFilteredListWatchFromClient(c, resource, ns, selector),
		ObjectType:    obj,
		Transform:     transform,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { changed() },
			UpdateFunc: func(any, any) { changed() },
			DeleteFunc: func(any) { changed() },
		},
	})
	return watched{store: store, ctl: ctl}
}

// run watches until ctx is done.
func (s *source) run(ctx context.Context, publish bool) {
	all := append(slices.Clone(s.configs), s.nodes)
	if publish {
		all = append(all, s.slices)
	}
	var wg sync.WaitGroup
	for _, w := range all {
		wg.Go(func() { w.ctl.RunWithContext(ctx) })
	}
	wg.Wait()
}

// waitConfig waits until both ConfigMaps are known to exist or not, at most the time given.
func (s *source) waitConfig(ctx context.Context, atMost time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	return cache.WaitFor(ctx, "", s.configs[0].ctl.HasSyncedChecker(), s.configs[1].ctl.HasSyncedChecker())
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

func dropManagedFields(obj any) (any, error) {
	if m, ok := obj.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return obj, nil
}

// onlyAddresses keeps of a Node what we read: a Node with its images is 10 KiB.
func onlyAddresses(obj any) (any, error) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, ResourceVersion: node.ResourceVersion},
		Status:     corev1.NodeStatus{Addresses: node.Status.Addresses},
	}, nil
}
