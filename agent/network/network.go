// Package network connects the node's pods with each other and the world: the
// overlay between nodes (flannel), the CNI configuration of the node, and the
// masquerading of what leaves the cluster.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw" // registers backend "host-gw"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"  // registers backend "vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

var everything = labels.Everything()

// Options of the node's network.
type Options struct {
	Kubeconfig string
	NodeName   string
	// NodeIP has at most one address of each family; Interface is the
	// interface that the overlay uses, empty: the one that has the address.
	NodeIP      []netip.Addr
	Interface   string
	Backend     string // vxlan, host-gw
	ClusterCIDR []netip.Prefix
	ServiceCIDR []netip.Prefix
	// CNIConfDir is where containerd looks; SubnetFile and CNIDataDir lie on a
	// tmpfs, since neither means anything after a reboot.
	CNIConfDir, CNIDataDir, SubnetFile string
	Logger                             *slog.Logger
}

// Network is the component that keeps the node connected.
type Network struct{ opts Options }

// New returns the component; nothing happens before Run.
func New(opts Options) *Network { return &Network{opts: opts} }

// Name implements component.Component.
func (n *Network) Name() string { return "flannel" }

// Run joins the overlay, writes the CNI configuration, is ready, and follows
// the other nodes until ctx is done. Routes and rules stay when it ends, so
// that pods go on talking while limpet restarts.
func (n *Network) Run(ctx context.Context, ready func()) error {
	ext, err := externalInterface(n.opts.Interface, n.opts.NodeIP)
	if err != nil {
		return err
	}
	restConfig, err := clientcmd.BuildConfigFromFlags("", n.opts.Kubeconfig)
	if err != nil {
		return fmt.Errorf("read network kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return fmt.Errorf("network client: %w", err)
	}
	cfg := subnetConfig(n.opts.ClusterCIDR, n.opts.Backend)
	if err := prepareKernel(cfg.EnableIPv4, cfg.EnableIPv6); err != nil {
		n.opts.Logger.Warn("a kernel setting could not be made; traffic between pods may not work", "error", err)
	}
	sm, err := newSubnets(ctx, client, n.opts.NodeName, cfg)
	if err != nil {
		return err
	}
	be, err := backend.NewManager(ctx, sm, ext).GetBackend(n.opts.Backend)
	if err != nil {
		return fmt.Errorf("flannel backend %s: %w", n.opts.Backend, err)
	}
	var wg sync.WaitGroup
	registered, err := be.RegisterNetwork(ctx, &wg, cfg)
	if err != nil {
		return fmt.Errorf("flannel backend %s: %w", n.opts.Backend, err)
	}
	if err := routeServices(n.opts.ServiceCIDR, ext.Iface.Index, n.opts.NodeIP); err != nil {
		return err
	}
	if err := n.configure(ctx, cfg, registered.Lease(), registered.MTU()); err != nil {
		return err
	}
	n.opts.Logger.Debug("network is up", "backend", n.opts.Backend, "interface", ext.Iface.Name, "mtu", registered.MTU())
	ready()
	registered.Run(ctx)
	wg.Wait()
	if ctx.Err() == nil {
		return errors.New("flannel stopped by itself")
	}
	return nil
}

// configure makes the node ready for pods with the lease it has got.
func (n *Network) configure(ctx context.Context, cfg *subnet.Config, l *lease.Lease, mtu int) error {
	if err := masquerade(ctx, n.opts.ClusterCIDR); err != nil {
		return fmt.Errorf("masquerade pod traffic: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(n.opts.SubnetFile), 0o755); err != nil {
		return fmt.Errorf("create directory of subnet file: %w", err)
	}
	if err := subnet.WriteSubnetFile(n.opts.SubnetFile, cfg, true, l.Subnet, l.IPv6Subnet, mtu); err != nil {
		return fmt.Errorf("write subnet file: %w", err)
	}
	var podCIDRs []string
	if cfg.EnableIPv4 {
		podCIDRs = append(podCIDRs, l.Subnet.String())
	}
	if cfg.EnableIPv6 {
		podCIDRs = append(podCIDRs, l.IPv6Subnet.String())
	}
	return writeCNIConfig(n.opts.CNIConfDir, cniConfig{
		PodCIDRs: podCIDRs, MTU: mtu, DataDir: n.opts.CNIDataDir,
	})
}

// subnetConfig describes the cluster network to flannel.
func subnetConfig(clusterCIDR []netip.Prefix, backendType string) *subnet.Config {
	cfg := &subnet.Config{EnableNFTables: true, BackendType: backendType}
	for _, p := range clusterCIDR {
		n := &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		if p.Addr().Is4() {
			cfg.EnableIPv4, cfg.Network = true, ip.FromIPNet(n)
		} else {
			cfg.EnableIPv6, cfg.IPv6Network = true, ip.FromIP6Net(n)
		}
	}
	return cfg
}

// externalInterface describes the interface that the overlay runs over. It
// needs no default route: the node's address names the interface.
func externalInterface(name string, nodeIP []netip.Addr) (*backend.ExternalInterface, error) {
	ext := &backend.ExternalInterface{}
	for _, addr := range nodeIP {
		if addr.Is4() {
			ext.IfaceAddr, ext.ExtAddr = addr.AsSlice(), addr.AsSlice()
		} else {
			ext.IfaceV6Addr, ext.ExtV6Addr = addr.AsSlice(), addr.AsSlice()
		}
	}
	var err error
	if name == "" {
		ext.Iface, err = interfaceOf(nodeIP)
	} else if ext.Iface, err = net.InterfaceByName(name); err != nil {
		err = fmt.Errorf("--flannel-iface %s: %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	ext.IfaceName = ext.Iface.Name
	return ext, nil
}

func interfaceOf(nodeIP []netip.Addr) (*net.Interface, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, want := range nodeIP {
		for i := range interfaces {
			addrs, err := interfaces[i].Addrs()
			if err != nil {
				continue // the interface has gone since
			}
			for _, a := range addrs {
				if n, ok := a.(*net.IPNet); ok && n.IP.Equal(want.AsSlice()) {
					return &interfaces[i], nil
				}
			}
		}
	}
	return nil, fmt.Errorf("no interface has the node address %v; name one with --flannel-iface", nodeIP)
}
