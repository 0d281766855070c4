package agent

import (
	"path/filepath"
	"slices"

	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/dns"
	"github.com/limpetio/limpet/internal/status"
)

// DNSAddon is the name by which --disable of a server knows the cluster's DNS.
const DNSAddon = "coredns"

// addDNS adds the node's DNS server: every node has one, so that its pods
// resolve names while the others cannot be reached. It writes as the kubelet, which
// may change its own Node only. A node without one takes back what it has said of it.
func (n *Node) addDNS(sup *component.Supervisor, nodeRegistered, permitted string) error {
	o := n.opts
	kubelet, err := clientConfig(o.Identity.KubeletKubeconfig)
	if err != nil {
		return err
	}
	if o.DisableDNS {
		return sup.Add(dns.Withdrawal(kubelet, o.Config.NodeName), component.Spec{After: []string{nodeRegistered}, Restart: true})
	}
	reader, err := clientConfig(o.Identity.DNSKubeconfig)
	if err != nil {
		return err
	}
	n.dns, err = dns.New(dns.Options{
		Kubeconfig: o.Identity.DNSKubeconfig, RestConfig: reader,
		NodeConfig: kubelet, NodeName: o.Config.NodeName,
		ListenAddrs: o.Config.NodeIP, ClusterDNS: o.ClusterDNS, ClusterDomain: o.ClusterDomain,
		ResolvConf: o.Config.ResolvConf, RunDir: filepath.Join(RunDir, "dns"),
		AllowFrom: slices.Concat(o.ClusterCIDR, o.ServiceCIDR),
		Logger:    o.Logger.With("component", "dns"),
	})
	if err != nil {
		return err
	}
	if err := sup.Add(n.dns, component.Spec{After: []string{nodeRegistered, permitted}, Restart: true}); err != nil {
		return err
	}
	// Stopped before all that it needs: what follows the annotation, up to the node's own kube-proxy.
	after := append([]string{n.dns.Name()}, o.DNSFollowers...)
	if n.kubeProxy != nil {
		after = append(after, n.kubeProxy.Name())
	}
	return sup.Add(n.dns.HandOver(), component.Spec{After: after})
}

// DNS is the state of the node's DNS server for `limpet status`; nil if it has none.
func (n *Node) DNS() *status.DNS {
	if n.dns == nil {
		return nil
	}
	s := n.dns.Status()
	return &status.DNS{Upstreams: s.Upstreams, Error: s.Error}
}
