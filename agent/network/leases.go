package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"reflect"
	"sort"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	corev1 "k8s.io/api/core/v1"
)

// The annotations under which flannel publishes how a node is reached. They
// are flannel's own, so that its tools and documentation apply.
const (
	annotationManaged     = "flannel.alpha.coreos.com/kube-subnet-manager"
	annotationType        = "flannel.alpha.coreos.com/backend-type"
	annotationData        = "flannel.alpha.coreos.com/backend-data"
	annotationDataV6      = "flannel.alpha.coreos.com/backend-v6-data"
	annotationPublicIP    = "flannel.alpha.coreos.com/public-ip"
	annotationPublicIPv6  = "flannel.alpha.coreos.com/public-ipv6"
	annotationOverwrite   = "flannel.alpha.coreos.com/public-ip-overwrite"
	annotationOverwriteV6 = "flannel.alpha.coreos.com/public-ipv6-overwrite"
)

// errNoSubnet means that the node has not been given a pod range yet.
var errNoSubnet = errors.New("node has no pod CIDR yet")

// families says which address families the cluster network has.
type families struct{ v4, v6 bool }

// podSubnets returns the node's pod ranges of both families; one that the node
// does not have is empty.
func podSubnets(node *corev1.Node) (v4 ip.IP4Net, v6 ip.IP6Net, err error) {
	cidrs := node.Spec.PodCIDRs
	if len(cidrs) == 0 && node.Spec.PodCIDR != "" {
		cidrs = []string{node.Spec.PodCIDR}
	}
	for _, cidr := range cidrs {
		addr, n, err := net.ParseCIDR(cidr)
		if err != nil {
			return v4, v6, fmt.Errorf("pod CIDR of node %s: %w", node.Name, err)
		}
		if addr.To4() != nil {
			v4 = ip.FromIPNet(n)
		} else {
			v6 = ip.FromIP6Net(n)
		}
	}
	return v4, v6, nil
}

// ownLease is the lease of this node: its pod ranges with the attributes that
// the backend wants the others to know.
func ownLease(node *corev1.Node, want families, attrs *lease.LeaseAttrs) (*lease.Lease, error) {
	v4, v6, err := podSubnets(node)
	if err != nil {
		return nil, err
	}
	if want.v4 && v4.Empty() || want.v6 && v6.Empty() {
		return nil, errNoSubnet
	}
	return &lease.Lease{EnableIPv4: want.v4, EnableIPv6: want.v6, Subnet: v4, IPv6Subnet: v6, Attrs: *attrs}, nil
}

// nodeLease reads the lease that another node has published. It returns false
// for a node that has none (yet).
func nodeLease(node *corev1.Node, want families) (lease.Lease, bool) {
	a := node.Annotations
	if a[annotationManaged] != "true" {
		return lease.Lease{}, false
	}
	v4, v6, err := podSubnets(node)
	if err != nil || want.v4 && v4.Empty() || want.v6 && v6.Empty() {
		return lease.Lease{}, false
	}
	l := lease.Lease{EnableIPv4: want.v4, EnableIPv6: want.v6, Subnet: v4, IPv6Subnet: v6}
	l.Attrs.BackendType = a[annotationType]
	if want.v4 {
		if l.Attrs.PublicIP, err = ip.ParseIP4(a[annotationPublicIP]); err != nil {
			return lease.Lease{}, false
		}
		l.Attrs.BackendData = json.RawMessage(a[annotationData])
	}
	if want.v6 {
		if l.Attrs.PublicIPv6, err = ip.ParseIP6(a[annotationPublicIPv6]); err != nil {
			return lease.Lease{}, false
		}
		l.Attrs.BackendV6Data = json.RawMessage(a[annotationDataV6])
	}
	return l, true
}

// annotations returns what this node has to publish for a lease, given what
// stands on the node: an overwrite by the administrator wins over the address found.
func annotations(node *corev1.Node, want families, attrs *lease.LeaseAttrs) map[string]string {
	out := map[string]string{annotationManaged: "true", annotationType: attrs.BackendType}
	if want.v4 {
		out[annotationData] = rawJSON(attrs.BackendData)
		out[annotationPublicIP] = attrs.PublicIP.String()
		if o := node.Annotations[annotationOverwrite]; o != "" {
			out[annotationPublicIP] = o
		}
	}
	if want.v6 && attrs.PublicIPv6 != nil {
		out[annotationDataV6] = rawJSON(attrs.BackendV6Data)
		out[annotationPublicIPv6] = attrs.PublicIPv6.String()
		if o := node.Annotations[annotationOverwriteV6]; o != "" {
			out[annotationPublicIPv6] = o
		}
	}
	for k, v := range out {
		if node.Annotations[k] == v {
			delete(out, k)
		}
	}
	return out
}

func rawJSON(m json.RawMessage) string {
	if len(m) == 0 {
		return "null"
	}
	return string(m)
}

// diff returns the events that lead from the leases known before to those known
// now, both keyed by node name. A lease that changed is removed and added
// again, so that nothing of the old address stays behind.
func diff(before, now map[string]lease.Lease) []lease.Event {
	var events []lease.Event
	for _, name := range sortedKeys(before) {
		if l, ok := now[name]; !ok || !reflect.DeepEqual(l, before[name]) {
			events = append(events, lease.Event{Type: lease.EventRemoved, Lease: before[name]})
		}
	}
	for _, name := range sortedKeys(now) {
		if l, ok := before[name]; !ok || !reflect.DeepEqual(l, now[name]) {
			events = append(events, lease.Event{Type: lease.EventAdded, Lease: now[name]})
		}
	}
	return events
}

func sortedKeys(m map[string]lease.Lease) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
