package config

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// maxServiceBits is the apiserver's own limit for the size of a service range,
// in bits (validateClusterIPFlags in cmd/kube-apiserver/app/options): /12, /108.
const maxServiceBits = 20

// maxNodeBits is the controller-manager's limit for the number of node ranges
// in an IPv6 cluster range, in bits (clusterSubnetMaxDiff in
// pkg/controller/nodeipam/ipam/cidrset).
const maxNodeBits = 16

func (s *Server) validateNetwork(p *problems) {
	clusterOK := p.ranges("cluster-cidr", s.ClusterCIDR)
	serviceOK := p.ranges("service-cidr", s.ServiceCIDR)
	if clusterOK && serviceOK && !slices.Equal(prefixFamilies(s.ClusterCIDR), prefixFamilies(s.ServiceCIDR)) {
		p.add("service-cidr", "has the families %s and cluster-cidr has %s: they must be the same, in the same order",
			familyNames(s.ServiceCIDR), familyNames(s.ClusterCIDR))
	}
	for _, service := range s.ServiceCIDR {
		for _, cluster := range s.ClusterCIDR {
			if service.Overlaps(cluster) {
				p.add("service-cidr", "%s overlaps cluster-cidr %s", service, cluster)
			}
		}
	}
	for _, r := range s.ClusterCIDR {
		s.validateClusterRange(p, r)
	}
	for _, r := range s.ServiceCIDR {
		validateServiceRange(p, r)
	}
	s.validateDNS(p)
	for _, a := range s.NodeIP {
		p.outside("node-ip", a, s)
	}
	if len(s.NodeIP) > 0 && clusterOK && !slices.Contains(addrFamilies(s.NodeIP), s.ClusterCIDR[0].Addr().Is4()) {
		p.add("node-ip", "has no %s address, which is the cluster's first family", familyName(s.ClusterCIDR[0].Addr().Is4()))
	}
	if errs := validation.IsDNS1123Subdomain(s.ClusterDomain); len(errs) > 0 {
		p.add("cluster-domain", "%q is not a domain name: %s", s.ClusterDomain, errs[0])
	}
	if !slices.Contains(FlannelBackends(), s.FlannelBackend) {
		p.add("flannel-backend", "%q is not one of %s%s", s.FlannelBackend,
			strings.Join(FlannelBackends(), ", "), didYouMean(Suggest(s.FlannelBackend, FlannelBackends())))
	} else if s.FlannelExternalIP && s.FlannelBackend != FlannelVXLAN {
		p.add("flannel-external-ip", "needs the flannel-backend %s; nodes in different networks cannot use %s", FlannelVXLAN, s.FlannelBackend)
	}
}

// ranges checks that there is at most one range of each family.
func (p *problems) ranges(option string, ranges []netip.Prefix) bool {
	if len(ranges) == 0 {
		p.add(option, "is needed")
		return false
	}
	families := prefixFamilies(ranges)
	if len(families) > 2 || len(families) == 2 && families[0] == families[1] {
		p.add(option, "has %d ranges; one IPv4 and one IPv6 range are the most", len(ranges))
		return false
	}
	return true
}

func (s *Server) validateClusterRange(p *problems, r netip.Prefix) {
	mask := nodeMask(s.KubeControllerManagerArgs, r.Addr().Is4())
	switch bits := mask - r.Bits(); {
	case bits < 0:
		p.add("cluster-cidr", "%s is too small: a node takes a /%d of it", r, mask)
	case !r.Addr().Is4() && bits > maxNodeBits:
		p.add("cluster-cidr", "%s is too large: with a /%d per node it can be a /%d at most", r, mask, mask-maxNodeBits)
	}
}

// nodeMask is the prefix length of a node's share of the cluster range: the
// controller-manager's default, unless an argument to it says otherwise.
func nodeMask(args []string, v4 bool) int {
	mask, name := 64, "node-cidr-mask-size-ipv6"
	if v4 {
		mask, name = 24, "node-cidr-mask-size-ipv4"
	}
	for _, arg := range args {
		key, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if n, err := strconv.Atoi(value); err == nil && (key == name || key == "node-cidr-mask-size") {
			mask = n
		}
	}
	return mask
}

func validateServiceRange(p *problems, r netip.Prefix) {
	switch bits := r.Addr().BitLen() - r.Bits(); {
	case bits > maxServiceBits:
		p.add("service-cidr", "%s is too large: the API server takes a /%d at most", r, r.Addr().BitLen()-maxServiceBits)
	case bits < 3:
		p.add("service-cidr", "%s is too small: the API server wants at least 8 addresses (/%d)", r, r.Addr().BitLen()-3)
	}
}

func (s *Server) validateDNS(p *problems) {
	p.onePerFamily("cluster-dns", s.ClusterDNS)
	for _, a := range s.ClusterDNS {
		i := slices.IndexFunc(s.ServiceCIDR, func(r netip.Prefix) bool { return r.Contains(a) })
		switch {
		case i < 0:
			p.add("cluster-dns", "%s is not inside service-cidr %s", a, joinPrefixes(s.ServiceCIDR))
		case a == s.ServiceCIDR[i].Addr():
			p.add("cluster-dns", "%s is the address of the range itself", a)
		case a == s.ServiceCIDR[i].Addr().Next():
			p.add("cluster-dns", "%s is taken: the first address is the API server's", a)
		}
	}
	// Too small ranges got no default address.
	if len(s.ClusterDNS) == 0 {
		p.add("cluster-dns", "is needed: service-cidr %s has no tenth address", joinPrefixes(s.ServiceCIDR))
	}
}

// onePerFamily checks a list of addresses of one thing.
func (p *problems) onePerFamily(option string, addrs []netip.Addr) {
	for i, a := range addrs {
		if slices.ContainsFunc(addrs[:i], func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			p.add(option, "has more than one %s address; one of each family is the most", familyName(a.Is4()))
			return
		}
	}
}

// reachable checks an address under which others are to reach this machine.
func (p *problems) reachable(option string, a netip.Addr) {
	switch {
	case a.IsUnspecified():
		p.add(option, "%s stands for all addresses; name one", a)
	case a.IsLoopback():
		p.add(option, "%s is a loopback address, which no pod and no other node can reach", a)
	case a.IsMulticast():
		p.add(option, "%s is a multicast address", a)
	case a.Is6() && a.IsLinkLocalUnicast():
		p.add(option, "%s is a link-local address, which has no meaning without an interface", a)
	}
}

// outside checks that an address of the machine is none that the cluster hands out.
func (p *problems) outside(option string, a netip.Addr, s *Server) {
	for _, r := range s.ClusterCIDR {
		if r.Contains(a) {
			p.add(option, "%s lies inside cluster-cidr %s: choose another range for pods", a, r)
		}
	}
	for _, r := range s.ServiceCIDR {
		if r.Contains(a) {
			p.add(option, "%s lies inside service-cidr %s: choose another range for Services", a, r)
		}
	}
}

func familyNames(ranges []netip.Prefix) string {
	var out []string
	for _, v4 := range prefixFamilies(ranges) {
		out = append(out, familyName(v4))
	}
	return strings.Join(out, "+")
}

func joinPrefixes(ranges []netip.Prefix) string {
	var out []string
	for _, r := range ranges {
		out = append(out, r.String())
	}
	return strings.Join(out, ",")
}
