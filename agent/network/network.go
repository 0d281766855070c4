// Package network connects the node's pods with each other and the world: the
// overlay between nodes (flannel), the CNI configuration of the node, and the
// masquerading of what leaves the cluster.
package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/flannel-io/flannel/pkg/backend/hostgw"
	"github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/vishvananda/netlink"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// The backends, by flannel's names.
const (
	backendVXLAN  = "vxlan"
	backendHostGW = "host-gw"
)

// The interfaces that pod traffic takes: flannel's overlay, one for each
// family, and the bridge of the node's pods.
const (
	overlayV4 = "flannel.1"
	overlayV6 = "flannel-v6.1"
	bridge    = "cni0"
)

var everything = labels.Everything()

// Options of the node's network.
type Options struct {
	// Kubeconfig may read nodes; OwnKubeconfig may change this node's own Node.
	Kubeconfig, OwnKubeconfig string
	NodeName                  string
	// NodeIP has at most one address of each family; Interface is the
	// interface that the overlay uses, empty: the one that has the address.
	NodeIP    []netip.Addr
	Interface string
	// PublicIP are addresses at which the other nodes reach this one, where
	// they are not those of the interface: behind address translation. At most
	// one of each family; vxlan only.
	PublicIP    []netip.Addr
	Backend     string // vxlan, host-gw
	ClusterCIDR []netip.Prefix
	ServiceCIDR []netip.Prefix
	// CNIConfDir is where containerd looks; SubnetFile and CNIDataDir lie on a
	// tmpfs, since neither means anything after a reboot.
	CNIConfDir, CNIDataDir, SubnetFile string
	// OwnNode is called with the annotations of this node's own Node whenever
	// that changes, as far as upgrades.Annotations keeps them: others need no
	// watch of their own. nil: nobody does.
	OwnNode func(annotations map[string]string)
	Logger  *slog.Logger
}

// Network is the component that keeps the node connected.
type Network struct{ opts Options }

// New returns the component; nothing happens before Run.
func New(opts Options) *Network { return &Network{opts: opts} }

// Name implements component.Component.
func (n *Network) Name() string { return "flannel" }

// Run joins the overlay, writes the CNI configuration, is ready, and follows
// the other nodes until ctx is done. It fails when the network has to be set up
// anew: to be restarted is its normal life. Routes and rules stay when it ends,
// so that pods go on talking while limpet restarts.
func (n *Network) Run(ctx context.Context, ready func()) error {
	ext, err := externalInterface(n.opts.Interface, n.opts.NodeIP)
	if err != nil {
		return err
	}
	reader, err := newClient(n.opts.Kubeconfig)
	if err != nil {
		return err
	}
	own, err := newClient(n.opts.OwnKubeconfig)
	if err != nil {
		return err
	}
	cfg := subnetConfig(n.opts.ClusterCIDR, n.opts.Backend)
	if err := prepareKernel(cfg.EnableIPv4, cfg.EnableIPv6); err != nil {
		n.opts.Logger.Warn("a kernel setting could not be made; traffic between pods may not work", "error", err)
	}
	ctx, cancel := context.WithCancel(ctx) // ends the watch with this run
	defer cancel()
	sm, err := newSubnets(ctx, reader, own, n.opts.NodeName, cfg, n.opts.PublicIP, n.opts.OwnNode)
	if err != nil {
		return err
	}
	registered, err := n.register(ctx, sm, ext, cfg)
	if err != nil {
		return fmt.Errorf("flannel backend %s: %w", n.opts.Backend, err)
	}
	mtu := overlayMTU(n.opts.Backend, ext.Iface.MTU, cfg.EnableIPv6)
	follower, err := n.newFollower(sm, ext, registered, mtu)
	if err != nil {
		return err
	}
	if err := n.configure(ctx, cfg, registered, mtu); err != nil {
		return err
	}
	if err := follower.reconcile(); err != nil {
		n.opts.Logger.Debug("not everything is in place yet", "error", err) // it has told, and goes on trying
	}
	n.opts.Logger.Debug("network is up", "backend", n.opts.Backend, "interface", ext.Iface.Name, "mtu", mtu)
	ready()
	return follower.run(ctx)
}

func newClient(kubeconfig string) (kubernetes.Interface, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read network kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("network client: %w", err)
	}
	return client, nil
}

// register has flannel make its device, with the address it had before, and
// publish the lease of this node.
func (n *Network) register(ctx context.Context, sm *subnets, ext *backend.ExternalInterface, cfg *subnet.Config) (*lease.Lease, error) {
	construct := vxlan.New
	if n.opts.Backend == backendHostGW {
		construct = hostgw.New
	}
	be, err := construct(sm, ext)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	registered, err := be.RegisterNetwork(ctx, &wg, cfg)
	if err != nil {
		return nil, err
	}
	return registered.Lease(), nil
}

// overlayMTU is what fits into a packet of the underlay: vxlan adds the headers
// of Ethernet, vxlan, UDP and IP, the last of which is longer in IPv6.
func overlayMTU(backendType string, underlay int, v6 bool) int {
	const overhead, overheadV6 = 50, 70
	switch {
	case backendType != backendVXLAN:
		return underlay
	case v6:
		return underlay - overheadV6
	default:
		return underlay - overhead
	}
}

// newFollower finds the interfaces that were made, and gives them the MTU: a
// device that was there already has its old one.
func (n *Network) newFollower(sm *subnets, ext *backend.ExternalInterface, l *lease.Lease, mtu int) (*follower, error) {
	external, err := netlink.LinkByIndex(ext.Iface.Index)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", ext.Iface.Name, err)
	}
	f := &follower{Network: n, sm: sm, external: *external.Attrs()}
	for _, cidr := range n.opts.ClusterCIDR {
		v4 := cidr.Addr().Is4()
		fam := family{
			v4: v4, mesh: mesh{network: cidr, own: leaseOf(l, v4)},
			underlay: underlay{backend: n.opts.Backend, external: ext.Iface.Index},
			services: serviceRoutes(n.opts.ServiceCIDR, ext.Iface.Index, n.opts.NodeIP, v4),
		}
		if n.opts.Backend == backendVXLAN {
			name := overlayV4
			if !v4 {
				name = overlayV6
			}
			device, err := netlink.LinkByName(name)
			if err == nil && device.Attrs().MTU != mtu {
				err = netlink.LinkSetMTU(device, mtu)
			}
			if err != nil {
				return nil, fmt.Errorf("interface %s: %w", name, err)
			}
			fam.overlay, fam.mesh.ownMAC = device.Attrs().Index, device.Attrs().HardwareAddr.String()
		}
		f.families = append(f.families, fam)
		f.lease = append(f.lease, fam.mesh.own)
	}
	return f, nil
}

// leaseOf is the pod range of one family.
func leaseOf(l *lease.Lease, v4 bool) netip.Prefix {
	text := l.Subnet.String()
	if !v4 {
		text = l.IPv6Subnet.String()
	}
	prefix, _ := netip.ParsePrefix(text) // flannel's own
	return prefix
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

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// subnetConfig describes the cluster network to flannel.
func subnetConfig(clusterCIDR []netip.Prefix, backendType string) *subnet.Config {
	cfg := &subnet.Config{EnableNFTables: true, BackendType: backendType}
	for _, p := range clusterCIDR {
		n := ipNet(p.Masked())
		if p.Addr().Is4() {
			cfg.EnableIPv4, cfg.Network = true, ip.FromIPNet(n)
		} else {
			cfg.EnableIPv6, cfg.IPv6Network = true, ip.FromIP6Net(n)
		}
	}
	return cfg
}
