package server

import (
	"net/netip"

	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/agent"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/upstream"
)

// serverRole is the role that a server's Node carries. A kubelet may not set it itself
// (NodeRestriction), so that a stolen node cannot attract control-plane work.
const serverRole = "node-role.kubernetes.io/control-plane"

// registration creates the server's own Node.
func (s *server) registration() *agent.Registration {
	return &agent.Registration{
		Config:        s.cfg.Node,
		RestConfig:    func() (*rest.Config, error) { return s.apiserver.Loopback(), nil },
		Roles:         map[string]string{serverRole: "true"},
		FirstPodCIDRs: firstPodCIDRs(s.cfg),
	}
}

// firstPodCIDRs returns the first node's range of each cluster range: a /24 or
// a /64, the controller-manager's default sizes. None if the user has told the
// controller-manager otherwise.
func firstPodCIDRs(cfg config.Server) []string {
	if upstream.Names(cfg.KubeControllerManagerArgs, "node-cidr-mask-size*", "allocate-node-cidrs", "cluster-cidr", "cidr-allocator-type") {
		return nil
	}
	var cidrs []string
	for _, p := range cfg.ClusterCIDR {
		bits := 24
		if p.Addr().Is6() {
			bits = 64
		}
		if p.Bits() > bits {
			return nil // the controller-manager will say what is wrong
		}
		cidrs = append(cidrs, netip.PrefixFrom(p.Masked().Addr(), bits).String())
	}
	return cidrs
}
