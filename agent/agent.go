// Package agent runs the node: containerd, kubelet, kube-proxy and the network
// that joins the node's pods with those of the others.
package agent

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/limpetio/limpet/agent/containerd"
	"github.com/limpetio/limpet/agent/network"
	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/dns"
)

// Node is the node's components, configured and checked but not running.
type Node struct {
	opts       Options
	kubelet    *kubelet
	kubeProxy  *kubeProxy // nil if disabled
	containerd *containerd.Containerd
	network    *network.Network // nil without flannel
	dns        *dns.Server      // nil if disabled

	imageArrivals *imageArrivals
}

// New builds the node's components and changes nothing on the machine. It fails on
// arguments that the components do not accept.
func New(opts Options) (*Node, error) {
	n := &Node{opts: opts, imageArrivals: newImageArrivals(opts.Config.NodeName, opts.Identity.KubeletKubeconfig)}
	var err error
	if n.kubelet, err = newKubelet(opts); err != nil {
		return nil, err
	}
	if !opts.Config.DisableKubeProxy {
		if n.kubeProxy, err = newKubeProxy(opts); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Validate checks the arguments as a whole, once the feature gates of all
// components of the process have been fixed.
func (n *Node) Validate() error { return n.kubelet.validate() }

// UsePayload names the unpacked helpers, before Add.
func (n *Node) UsePayload(bin, pauseArchive string) {
	n.opts.PayloadBin, n.opts.PauseArchive = bin, pauseArchive
}

// Images reports on the image files of the node.
func (n *Node) Images() []containerd.ImageFileStatus {
	if n.containerd == nil {
		return nil
	}
	return n.containerd.ImageFiles()
}

// ImageArrivals is the component that wakes pods whose image has been imported
// from a file. It needs the Node.
func (n *Node) ImageArrivals() component.Component { return n.imageArrivals }

// Ports are the TCP ports that the node's components listen on, by component.
func (n *Node) Ports() map[string]netip.AddrPort {
	anywhere, loopback := netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{127, 0, 0, 1})
	ports := map[string]netip.AddrPort{
		"kubelet":        netip.AddrPortFrom(anywhere, uint16(n.kubelet.server.Port)),
		"kubelet health": netip.AddrPortFrom(loopback, uint16(n.kubelet.server.HealthzPort)),
	}
	if n.kubeProxy != nil {
		ports["kube-proxy health"] = netip.AddrPortFrom(loopback, kubeProxyHealthPort)
		ports["kube-proxy metrics"] = netip.AddrPortFrom(loopback, kubeProxyMetricsPort)
	}
	return ports
}

// Prepare makes the node's directories, and removes what would keep the kubelet
// from starting.
func (n *Node) Prepare() error {
	for _, dir := range []string{
		KubeletRoot, n.opts.Paths.KubeletPKI(), n.opts.Paths.VolumePlugins(), n.opts.Paths.CNIConf(),
	} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create node directory: %w", err)
		}
	}
	return dropDamagedServing(n.opts.Paths.KubeletPKI())
}

// Add hands the components to the supervisor. nodeRegistered is when the Node
// object is there, permitted is when the node's parts may do what they have to:
// on a server with the manifests, on an agent with their certificates. The
// kubelet comes after the network, because it looks at the network only every
// five seconds, and a pod that meets a node without one waits for its next
// attempt.
func (n *Node) Add(sup *component.Supervisor, apiReady, nodeRegistered, permitted string) error {
	kubeletAfter := []string{apiReady}
	if n.opts.Config.ContainerRuntimeEndpoint == "" {
		n.containerd = containerd.New(n.containerdOptions())
		if err := sup.Add(n.containerd, component.Spec{Restart: true}); err != nil {
			return err
		}
		kubeletAfter = append(kubeletAfter, n.containerd.Name())
	}
	if n.opts.FlannelBackend != config.FlannelNone {
		n.network = network.New(n.networkOptions())
		if err := sup.Add(n.network, component.Spec{After: []string{nodeRegistered, permitted}, Restart: true}); err != nil {
			return err
		}
		kubeletAfter = append(kubeletAfter, n.network.Name())
	}
	if n.kubeProxy != nil {
		if err := sup.Add(n.kubeProxy, component.Spec{After: []string{nodeRegistered, permitted}}); err != nil {
			return err
		}
	}
	if err := n.addDNS(sup, nodeRegistered, permitted); err != nil {
		return err
	}
	return sup.Add(n.kubelet, component.Spec{After: append(kubeletAfter, nodeRegistered)})
}

func (n *Node) containerdOptions() containerd.Options {
	o := n.opts
	return containerd.Options{
		DataDir: o.Config.DataDir, RunDir: RunDir,
		PayloadBin: o.PayloadBin, PauseArchive: o.PauseArchive, PauseImage: o.Config.PauseImage,
		Snapshotter: o.Config.Snapshotter, DefaultRuntime: o.Config.DefaultRuntime,
		SystemdCgroup: o.systemdCgroup(), RestrictOOMScoreAdj: !o.Host.HasSysResource,
		ForeignNetwork:                 o.FlannelBackend == config.FlannelNone,
		RegistriesFile:                 o.Config.PrivateRegistry,
		ImagesImported:                 n.imageArrivals.notify,
		DisableDefaultRegistryEndpoint: o.Config.DisableDefaultRegistryEndpoint,
		Logger:                         o.Logger.With("component", "containerd"),
	}
}

func (n *Node) networkOptions() network.Options {
	o := n.opts
	var public []netip.Addr
	if o.FlannelExternalIP {
		public = o.Config.NodeExternalIP
	}
	return network.Options{
		Kubeconfig: o.Identity.NetworkKubeconfig, OwnKubeconfig: o.Identity.KubeletKubeconfig, NodeName: o.Config.NodeName,
		NodeIP: o.Config.NodeIP, Interface: o.Config.FlannelIface, PublicIP: public,
		Backend: o.FlannelBackend, ClusterCIDR: o.ClusterCIDR, ServiceCIDR: o.ServiceCIDR,
		CNIConfDir: o.Paths.CNIConf(), CNIDataDir: filepath.Join(RunDir, "cni", "networks"),
		SubnetFile: filepath.Join(RunDir, "flannel", "subnet.env"), OwnNode: o.OwnNode,
		Logger: o.Logger.With("component", "flannel"),
	}
}
