package dns

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	discoveryapply "k8s.io/client-go/applyconfigurations/discovery/v1"
)

const (
	serviceName  = "kube-dns"
	fieldManager = "limpet"
)

// endpoint is what the Service kube-dns shall lead to on this node.
type endpoint struct {
	node        string
	addrs       []netip.Addr
	port        int
	metricsPort int // 0: none
}

// desiredSlices returns our EndpointSlices by name: one for each address family
// that has an address which Kubernetes accepts as an endpoint.
func desiredSlices(e endpoint) map[string]*discoveryv1.EndpointSlice {
	out := make(map[string]*discoveryv1.EndpointSlice)
	for _, a := range e.addrs {
		a = a.Unmap().WithZone("")
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() {
			continue
		}
		name, family := serviceName+"-"+e.node, discoveryv1.AddressTypeIPv4
		if a.Is6() {
			name, family = name+"-ipv6", discoveryv1.AddressTypeIPv6
		}
		if out[name] != nil {
			continue // one address of a family is enough: it is one server
		}
		out[name] = &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{
				discoveryv1.LabelServiceName: serviceName,
				discoveryv1.LabelManagedBy:   fieldManager,
			}},
			AddressType: family,
			Endpoints: []discoveryv1.Endpoint{{
				Addresses:  []string{a.String()},
				Conditions: discoveryv1.EndpointConditions{Ready: ptr(true), Serving: ptr(true), Terminating: ptr(false)},
				NodeName:   &e.node,
			}},
			Ports: slicePorts(e),
		}
	}
	return out
}

// slicePorts are the ports of the Service kube-dns, by the names it gives them.
func slicePorts(e endpoint) []discoveryv1.EndpointPort {
	ports := []discoveryv1.EndpointPort{
		{Name: ptr("dns"), Protocol: ptr(corev1.ProtocolUDP), Port: ptr(int32(e.port))},
		{Name: ptr("dns-tcp"), Protocol: ptr(corev1.ProtocolTCP), Port: ptr(int32(e.port))},
	}
	if e.metricsPort != 0 {
		ports = append(ports, discoveryv1.EndpointPort{Name: ptr("metrics"), Protocol: ptr(corev1.ProtocolTCP), Port: ptr(int32(e.metricsPort))})
	}
	return ports
}

// publish makes this node's EndpointSlices what they shall be.
func (s *source) publish(ctx context.Context, e endpoint) error {
	want := desiredSlices(e)
	have := make(map[string]*discoveryv1.EndpointSlice)
	for _, obj := range s.slices.store.List() {
		if es, ok := obj.(*discoveryv1.EndpointSlice); ok {
			have[es.Name] = es
		}
	}
	api := s.client.DiscoveryV1().EndpointSlices(namespace)
	for name, es := range want {
		if old := have[name]; old != nil && sameSlice(old, es) {
			continue
		}
		if old := have[name]; old != nil && old.AddressType != es.AddressType { // immutable
			if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("delete EndpointSlice %s: %w", name, err)
			}
		}
		if _, err := api.Apply(ctx, applySlice(es), metav1.ApplyOptions{FieldManager: fieldManager, Force: true}); err != nil {
			return fmt.Errorf("apply EndpointSlice %s: %w", name, err)
		}
	}
	for _, name := range []string{serviceName + "-" + e.node, serviceName + "-" + e.node + "-ipv6"} {
		if want[name] != nil || have[name] == nil {
			continue
		}
		if err := api.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete EndpointSlice %s: %w", name, err)
		}
	}
	return nil
}

func sameSlice(a, b *discoveryv1.EndpointSlice) bool {
	return a.AddressType == b.AddressType &&
		equality.Semantic.DeepEqual(a.Endpoints, b.Endpoints) &&
		equality.Semantic.DeepEqual(a.Ports, b.Ports)
}

func applySlice(es *discoveryv1.EndpointSlice) *discoveryapply.EndpointSliceApplyConfiguration {
	ac := discoveryapply.EndpointSlice(es.Name, es.Namespace).WithLabels(es.Labels).WithAddressType(es.AddressType)
	for _, ep := range es.Endpoints {
		ac.WithEndpoints(discoveryapply.Endpoint().
			WithAddresses(ep.Addresses...).
			WithNodeName(*ep.NodeName).
			WithConditions(discoveryapply.EndpointConditions().
				WithReady(*ep.Conditions.Ready).
				WithServing(*ep.Conditions.Serving).
				WithTerminating(*ep.Conditions.Terminating)))
	}
	for _, p := range es.Ports {
		ac.WithPorts(discoveryapply.EndpointPort().WithName(*p.Name).WithProtocol(*p.Protocol).WithPort(*p.Port))
	}
	return ac
}

func ptr[T any](v T) *T { return &v }
