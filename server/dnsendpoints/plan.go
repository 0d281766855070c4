package dnsendpoints

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpetio/limpet/internal/dns"
)

const (
	namespace   = metav1.NamespaceSystem
	serviceName = "kube-dns"
	manager     = "limpet"
	// controlPlane is on servers' Nodes; no kubelet may set it (NodeRestriction).
	controlPlane = "node-role.kubernetes.io/control-plane"
	// maxNodeName is as much of a node's name as fits into that of an EndpointSlice, 253 bytes.
	maxNodeName = 200
)

// state is what the controller decides from.
type state struct {
	service *corev1.Service // kube-dns; nil: there is none
	nodes   []*corev1.Node
	slices  []*discoveryv1.EndpointSlice // ours
}

// actions make the EndpointSlices what they shall be.
type actions struct {
	create, update []*discoveryv1.EndpointSlice
	remove         []string
	// refused says, by node, why an annotation has no effect.
	refused map[string]string
}

// plan decides from nothing but s. Without the Service nothing is wanted.
func plan(s state) actions {
	a := actions{refused: make(map[string]string)}
	want := make(map[string]*discoveryv1.EndpointSlice)
	if s.service != nil {
		want = wanted(s.service, s.nodes, a.refused)
	}
	for _, have := range s.slices {
		w := want[have.Name]
		if w == nil || w.AddressType != have.AddressType { // the type cannot be changed: removed now, created next time
			a.remove = append(a.remove, have.Name)
			delete(want, have.Name)
			continue
		}
		delete(want, have.Name)
		if !same(have, w) {
			w.ResourceVersion = have.ResourceVersion
			a.update = append(a.update, w)
		}
	}
	for _, w := range want {
		a.create = append(a.create, w)
	}
	for _, list := range [][]*discoveryv1.EndpointSlice{a.create, a.update} {
		slices.SortFunc(list, func(x, y *discoveryv1.EndpointSlice) int { return cmp.Compare(x.Name, y.Name) })
	}
	slices.Sort(a.remove)
	return a
}

// wanted returns the EndpointSlices by name: for each node that serves DNS one
// of each address family. Each is hinted for its own node, which makes the
// kube-proxy of that node use nothing else, and that of a node without one use all.
func wanted(service *corev1.Service, nodes []*corev1.Node, refused map[string]string) map[string]*discoveryv1.EndpointSlice {
	out := make(map[string]*discoveryv1.EndpointSlice)
	taken := make(map[netip.Addr]string)
	for _, node := range bySeniority(nodes) {
		text := node.Annotations[dns.Annotation]
		if text == "" || dns.Lost(node) {
			continue
		}
		e, err := dns.ParseEndpoint(text)
		if err != nil {
			refused[node.Name] = err.Error()
			continue
		}
		if why := notOwn(node, e, taken); why != "" {
			refused[node.Name] = why
			continue
		}
		for _, a := range e.Addresses {
			taken[a] = node.Name
			slice := endpointSlice(service, node.Name, a, e)
			if out[slice.Name] == nil { // one address of a family is enough: it is one server
				out[slice.Name] = slice
			}
		}
	}
	return out
}

// bySeniority puts servers first, then the nodes that have been there longest:
// they keep an address that a newcomer claims too.
func bySeniority(nodes []*corev1.Node) []*corev1.Node {
	rank := func(n *corev1.Node) int {
		if _, server := n.Labels[controlPlane]; server {
			return 0
		}
		return 1
	}
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b *corev1.Node) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return nodes
}

// notOwn says why an endpoint is not the node's to publish; empty if it is. A
// node must not lead others' questions to a machine that is not of the cluster, or to another node.
func notOwn(node *corev1.Node, e dns.Endpoint, taken map[netip.Addr]string) string {
	own := make(map[netip.Addr]bool)
	for _, a := range node.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			own[ip.Unmap()] = true
		}
	}
	for _, a := range e.Addresses {
		if !own[a] {
			return fmt.Sprintf("%s is no address of the node", a)
		}
		if other, ok := taken[a]; ok {
			return fmt.Sprintf("%s is the address of node %s", a, other)
		}
	}
	return ""
}

func endpointSlice(service *corev1.Service, node string, addr netip.Addr, e dns.Endpoint) *discoveryv1.EndpointSlice {
	family, suffix := discoveryv1.AddressTypeIPv4, "ipv4"
	if addr.Is6() {
		family, suffix = discoveryv1.AddressTypeIPv6, "ipv6"
	}
	yes, no := true, false
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: serviceName + "-" + suffix + "-" + short(node), Namespace: namespace,
			Labels: map[string]string{discoveryv1.LabelServiceName: serviceName, discoveryv1.LabelManagedBy: manager},
			// So that they go with the Service, e.g. when DNS is switched off.
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: service.Name, UID: service.UID}},
		},
		AddressType: family,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses:  []string{addr.String()},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
			NodeName:   &node,
			Hints:      &discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: node}}},
		}},
		Ports: ports(e),
	}
}

// short returns the name, or for a very long one its beginning and a hash.
func short(node string) string {
	if len(node) <= maxNodeName {
		return node
	}
	sum := sha256.Sum256([]byte(node))
	return node[:maxNodeName-17] + "-" + hex.EncodeToString(sum[:8])
}

// ports are those of the Service kube-dns, by the names it gives them.
func ports(e dns.Endpoint) []discoveryv1.EndpointPort {
	port := func(name string, protocol corev1.Protocol, number uint16) discoveryv1.EndpointPort {
		n := int32(number)
		return discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &n}
	}
	list := []discoveryv1.EndpointPort{port("dns", corev1.ProtocolUDP, e.Port), port("dns-tcp", corev1.ProtocolTCP, e.Port)}
	if e.MetricsPort != 0 {
		list = append(list, port("metrics", corev1.ProtocolTCP, e.MetricsPort))
	}
	return list
}

func same(a, b *discoveryv1.EndpointSlice) bool {
	return equality.Semantic.DeepEqual(a.Endpoints, b.Endpoints) &&
		equality.Semantic.DeepEqual(a.Ports, b.Ports) &&
		equality.Semantic.DeepEqual(a.Labels, b.Labels) &&
		equality.Semantic.DeepEqual(a.OwnerReferences, b.OwnerReferences)
}
