package dns

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"k8s.io/client-go/rest"
)

// DefaultPort is where the server listens on the node: 53 may belong to a
// resolver of the machine (dnsmasq on a router, for one). Pods never see it, the
// Service's port 53 leads to it.
const DefaultPort = 10053

// Options say how the server runs. Those marked with * are required.
type Options struct {
	// Kubeconfig is the path of the kubeconfig that CoreDNS's kubernetes plugin
	// uses. Empty: the Corefile must say how to reach the API server.
	Kubeconfig string
	// RestConfig reaches the API server to watch ConfigMaps and Nodes. Nil: the
	// built-in Corefile is used for ever.
	RestConfig *rest.Config
	// NodeConfig is the identity of the node's kubelet, which may annotate its own
	// Node and record Events. Nil: neither is done, and the Service kube-dns does not lead here.
	NodeConfig *rest.Config
	// NodeName names the own Node; required with NodeConfig.
	NodeName string
	// ListenAddrs are the node's addresses; see also [Server.SetListenAddrs].
	// While there is none the server waits.
	ListenAddrs []netip.Addr
	// Port to listen on, UDP and TCP; default [DefaultPort].
	Port int
	// ClusterDNS are the addresses of the Service kube-dns; never forwarded to.
	ClusterDNS []netip.Addr
	// ClusterDomain without trailing dot; default cluster.local.
	ClusterDomain string
	// ResolvConf names the node's resolver configuration; default /etc/resolv.conf.
	ResolvConf string
	// RunDir* is a directory for the server alone, absolute, e.g. /run/limpet/dns.
	RunDir string
	// AllowFrom are the ranges that are answered, besides this machine and all
	// nodes: the cluster's pods and Services.
	AllowFrom []netip.Prefix
	// Logger* carries component=dns.
	Logger *slog.Logger
}

// complete fills in defaults and checks.
func (o *Options) complete() error {
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.ClusterDomain == "" {
		o.ClusterDomain = "cluster.local"
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	switch {
	case o.Logger == nil:
		return errors.New("dns: no Logger")
	case !filepath.IsAbs(o.RunDir):
		return fmt.Errorf("dns: RunDir %q is not an absolute path", o.RunDir)
	case o.Port < 0 || o.Port > 65535:
		return fmt.Errorf("dns: port %d is not within 1 and 65535", o.Port)
	case o.NodeConfig != nil && (o.NodeName == "" || o.RestConfig == nil):
		return errors.New("dns: NodeConfig needs NodeName and RestConfig")
	}
	return nil
}
