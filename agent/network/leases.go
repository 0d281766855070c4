package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	corev1 "k8s.io/api/core/v1"
)

// The annotations under which flannel publishes how a node is reached. They
// are flannel's own, so that its tools and documentation apply.
const (
	annotationPrefix = "flannel.alpha.coreos.com/"

	annotationManaged     = "flannel.alpha.coreos.com/kube-subnet-manager"
	annotationType        = "flannel.alpha.coreos.com/backend-type"
	annotationData        = "flannel.alpha.coreos.com/backend-data"
	annotationDataV6      = "flannel.alpha.coreos.com/backend-v6-data"
	annotationPublicIP    = "flannel.alpha.coreos.com/public-ip"
	annotationPublicIPv6  = "flannel.alpha.coreos.com/public-ipv6"
	annotationOverwrite   = "flannel.alpha.coreos.com/public-ip-overwrite"
	annotationOverwriteV6 = "flannel.alpha.coreos.com/public-ipv6-overwrite"
)

// errNoSubnet means that the node has no pod range of a family (yet).
var errNoSubnet = errors.New("node has no pod CIDR yet")

// families says which address families the cluster network has.
type families struct{ v4, v6 bool }

// podSubnet returns the node's pod range of one family, or errNoSubnet.
func podSubnet(node *corev1.Node, v4 bool) (netip.Prefix, error) {
	cidrs := node.Spec.PodCIDRs
	if len(cidrs) == 0 && node.Spec.PodCIDR != "" {
		cidrs = []string{node.Spec.PodCIDR}
	}
	for _, cidr := range cidrs {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("pod CIDR of node %s: %w", node.Name, err)
		}
		if prefix.Addr().Is4() == v4 {
			return prefix, nil
		}
	}
	return netip.Prefix{}, errNoSubnet
}

// ownLease is the lease of this node: its pod ranges with the attributes that
// the backend wants the others to know.
func ownLease(node *corev1.Node, want families, attrs *lease.LeaseAttrs) (*lease.Lease, error) {
	l := &lease.Lease{EnableIPv4: want.v4, EnableIPv6: want.v6, Attrs: *attrs}
	if want.v4 {
		subnet, err := podSubnet(node, true)
		if err != nil {
			return nil, err
		}
		l.Subnet = ip.FromIPNet(ipNet(subnet))
	}
	if want.v6 {
		subnet, err := podSubnet(node, false)
		if err != nil {
			return nil, err
		}
		l.IPv6Subnet = ip.FromIP6Net(ipNet(subnet))
	}
	return l, nil
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
