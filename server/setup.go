package server

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/limpetio/limpet/agent"
	"github.com/limpetio/limpet/agent/network"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/pki"
	"github.com/limpetio/limpet/internal/status"
	"github.com/limpetio/limpet/internal/version"
)

// addresses fills in what follows from the machine's addresses.
func (s *server) addresses() error {
	cfg := &s.cfg
	if len(cfg.NodeIP) == 0 {
		s.addressFound = true
		v4 := slices.ContainsFunc(cfg.ClusterCIDR, func(p netip.Prefix) bool { return p.Addr().Is4() })
		v6 := slices.ContainsFunc(cfg.ClusterCIDR, func(p netip.Prefix) bool { return p.Addr().Is6() })
		found, err := network.NodeAddresses(v4, v6, cfg.FlannelIface)
		if err != nil {
			return err
		}
		cfg.NodeIP = found
	}
	if !cfg.AdvertiseAddress.IsValid() {
		cfg.AdvertiseAddress = cfg.NodeIP[0]
	}
	return nil
}

// nodeID appends the machine's own suffix to the node name, for those whose
// machines all have the same host name. It is kept in a file of the data
// directory from prepare on.
func (s *server) nodeID() error {
	if !s.cfg.WithNodeID {
		return nil
	}
	data, err := os.ReadFile(s.layout.nodeID())
	switch {
	case errors.Is(err, os.ErrNotExist):
		random := make([]byte, 4)
		_, _ = rand.Read(random) // never fails: see crypto/rand
		s.newNodeID = hex.EncodeToString(random)
		data = []byte(s.newNodeID)
	case err != nil:
		return fmt.Errorf("read node id: %w", err)
	}
	s.cfg.NodeName += "-" + strings.TrimSpace(string(data))
	return nil
}

func (s *server) agentOptions() agent.Options {
	return agent.Options{
		Config: s.cfg.Node, Host: s.host, Logger: s.log,
		Paths:       agent.Paths{DataDir: s.cfg.DataDir},
		Taints:      agent.Taints(s.cfg.Node),
		ClusterCIDR: s.cfg.ClusterCIDR, ServiceCIDR: s.cfg.ServiceCIDR, ClusterDNS: s.cfg.ClusterDNS, ClusterDomain: s.cfg.ClusterDomain,
		FlannelBackend: s.cfg.FlannelBackend, FlannelExternalIP: s.cfg.FlannelExternalIP, ResolvConf: s.resolvConf,
		DisableDNS: s.cfg.DisableNodeLocalDNS || s.dnsDisabled(), DNSFollowers: s.dnsFollowers(),
		Identity: agent.Identity{
			KubeletKubeconfig: s.certs.Kubelet.Kubeconfig,
			ProxyKubeconfig:   s.certs.Proxy.Kubeconfig,
			NetworkKubeconfig: s.certs.Network.Kubeconfig,
			DNSKubeconfig:     s.certs.DNS.Kubeconfig,
			KubeletServing:    s.certs.KubeletServing,
			ClientCA:          s.certs.ClientCA,
		},
	}
}

// writeAdminKubeconfig writes the kubeconfig for the people of this cluster. It
// carries its certificates, so that it can be copied to another machine.
func writeAdminKubeconfig(cfg config.Server, c *Certificates) error {
	host := "127.0.0.1"
	if !cfg.BindAddress.IsUnspecified() {
		host = cfg.BindAddress.String()
	}
	data, err := pki.Kubeconfig(pki.KubeconfigSpec{
		Server: "https://" + net.JoinHostPort(host, strconv.Itoa(cfg.HTTPSListenPort)),
		CAFile: c.ServerCA, Client: c.Admin.KeyPair, Embed: true,
	})
	if err != nil {
		return err
	}
	if _, err := pki.WriteKubeconfig(cfg.WriteKubeconfig, data, cfg.WriteKubeconfigMode, cfg.WriteKubeconfigGroup); err != nil {
		return fmt.Errorf("%w; another place can be named with --write-kubeconfig", err)
	}
	return nil
}

func (s *server) baseReport() status.Report {
	return status.Report{
		Version: version.Version, Kubernetes: version.KubernetesVersion,
		Mode: "server", Node: s.cfg.NodeName, PID: os.Getpid(), Started: s.started,
	}
}
