package loadbalancer

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/limpetio/limpet/internal/component"
)

// Follow is a component that keeps the list right: the API servers that the
// cluster has are the endpoints of the Service default/kubernetes. The client
// needs to list and watch EndpointSlices in the namespace default, which the
// identity of kube-proxy may. extra, if not nil, gives servers from elsewhere
// to be kept besides; it is asked at every change.
func (b *Balancer) Follow(client kubernetes.Interface, extra func() []string) component.Component {
	return component.Func("servers", func(ctx context.Context, ready func()) error {
		factory := informers.NewSharedInformerFactoryWithOptions(client, 0,
			informers.WithNamespace(metav1.NamespaceDefault),
			informers.WithTweakListOptions(func(o *metav1.ListOptions) {
				o.LabelSelector = labels.Set{discoveryv1.LabelServiceName: "kubernetes"}.String()
			}))
		informer := factory.Discovery().V1().EndpointSlices()
		update := func() {
			list, err := informer.Lister().List(labels.Everything())
			if err != nil {
				return // the cache never fails
			}
			addrs := endpoints(list)
			if extra != nil {
				addrs = append(addrs, extra()...)
			}
			b.SetServers(addrs)
		}
		_, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { update() },
			UpdateFunc: func(_, _ any) { update() },
			DeleteFunc: func(any) { update() },
		})
		if err != nil {
			return fmt.Errorf("watch the endpoints of the API: %w", err)
		}
		factory.Start(ctx.Done())
		ready() // nothing waits for the list: there is one already
		<-ctx.Done()
		factory.Shutdown()
		return nil
	})
}

// endpoints are the addresses of all API servers, sorted, so that the order of
// events makes no difference.
func endpoints(list []*discoveryv1.EndpointSlice) []string {
	var addrs []string
	for _, slice := range list {
		for _, port := range slice.Ports {
			if port.Port == nil || port.Protocol != nil && *port.Protocol != corev1.ProtocolTCP {
				continue
			}
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready != nil && !*e.Conditions.Ready {
					continue
				}
				for _, addr := range e.Addresses {
					addrs = append(addrs, net.JoinHostPort(addr, strconv.Itoa(int(*port.Port))))
				}
			}
		}
	}
	slices.Sort(addrs)
	return slices.Compact(addrs)
}
