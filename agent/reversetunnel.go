package agent

import (
	"context"
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/limpetio/limpet/agent/join"
	"github.com/limpetio/limpet/agent/tunnel"
	"github.com/limpetio/limpet/internal/status"
)

// reverseTunnel lets the servers reach this node's kubelet and pods.
func (a *agent) reverseTunnel() *tunnel.Tunnel {
	files := a.files()
	return tunnel.New(tunnel.Options{
		Servers: a.balancer.Servers, Changed: a.balancer.Changed,
		ServerCA:   files.ServerCA(),
		ClientCert: files.Client(join.Kubelet), ClientKey: files.Client(join.Kubelet),
		Policy:    a.node.tunnelPolicy(),
		PodRanges: a.podRanges,
		Logger:    a.log.With("component", tunnel.Name),
	})
}

// tunnelPolicy allows the kubelet, where it listens.
func (n *Node) tunnelPolicy() tunnel.Policy {
	port := uint16(n.kubelet.server.Port)
	addr, err := netip.ParseAddr(n.kubelet.server.Address)
	if err != nil || addr.IsUnspecified() {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return tunnel.Policy{NodeName: n.opts.Config.NodeName, KubeletPort: port, Kubelet: netip.AddrPortFrom(addr, port)}
}

// podRanges are those of this node's own Node object.
func (a *agent) podRanges(ctx context.Context) ([]netip.Prefix, error) {
	cfg, err := a.kubeletConfig()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	node, err := client.CoreV1().Nodes().Get(ctx, a.cfg.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get node %s: %w", a.cfg.NodeName, err)
	}
	var ranges []netip.Prefix
	for _, cidr := range node.Spec.PodCIDRs {
		p, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, fmt.Errorf("pod range of node %s: %w", a.cfg.NodeName, err)
		}
		ranges = append(ranges, p)
	}
	return ranges, nil
}

func tunnelStatus(t *tunnel.Tunnel) []status.Tunnel {
	var list []status.Tunnel
	for _, s := range t.States() {
		list = append(list, status.Tunnel{Peer: s.Server, Connected: s.Connected, Since: s.Since, Error: s.Error})
	}
	return list
}
