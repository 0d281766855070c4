package agent

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/limpetio/limpet/agent/join"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/hostcheck"
	"github.com/limpetio/limpet/internal/pki"
)

// KubeletRoot is the kubelet's directory. It is upstream's default, because
// volume drivers of other parties expect it there.
const KubeletRoot = "/var/lib/kubelet"

// RunDir holds what must not survive a reboot: sockets, containerd's state,
// the subnet file and the pods' address leases.
const RunDir = "/run/limpet"

const (
	cgroupfsDriver = "cgroupfs"
	systemdDriver  = "systemd"
)

// Identity is who the node's components are towards the API server.
type Identity struct {
	KubeletKubeconfig string
	ProxyKubeconfig   string
	NetworkKubeconfig string
	DNSKubeconfig     string // read only; what DNS writes, it writes as the kubelet
	KubeletServing    pki.KeyPair
	// ClientCA is the bundle that the kubelet's own clients are verified with.
	ClientCA string
}

// Options is everything the node's components need, decided once at start.
type Options struct {
	Config   config.Node
	Identity Identity
	Host     hostcheck.Host
	Paths    Paths
	Logger   *slog.Logger

	// PayloadBin is where runc, the shim, the CNI plugins and nft are;
	// PauseArchive is the image that holds a pod's namespaces open.
	PayloadBin, PauseArchive string

	Taints         []corev1.Taint
	ClusterCIDR    []netip.Prefix
	ServiceCIDR    []netip.Prefix
	ClusterDNS     []netip.Addr
	ClusterDomain  string
	FlannelBackend string
	// OwnNode is told the annotations of this node's Node by the watch of the
	// network; nil: not.
	OwnNode func(annotations map[string]string)
	// FlannelExternalIP has the overlay lead to the nodes' external addresses.
	FlannelExternalIP bool
	ResolvConf        string
	// DisableDNS: this node runs no DNS server, because it or the whole cluster shall not.
	DisableDNS bool
	// DNSFollowers are components of this process that must be stopped after the DNS server
	// has been handed over to another node.
	DNSFollowers []string
}

// systemdCgroup tells whether pods' control groups are made through systemd:
// where it runs the machine with cgroup v2, it is their only writer.
func (o Options) systemdCgroup() bool { return o.Host.SystemdIsInit && o.Host.Cgroup.Version == 2 }

func (o Options) runtimeSocket() string {
	if o.Config.ContainerRuntimeEndpoint != "" {
		return strings.TrimPrefix(o.Config.ContainerRuntimeEndpoint, "unix://")
	}
	return filepath.Join(RunDir, "containerd", "containerd.sock")
}

// Paths are the node's directories below the data directory.
type Paths struct{ DataDir string }

func (p Paths) agent(elem ...string) string {
	return filepath.Join(append([]string{p.DataDir, "agent"}, elem...)...)
}

// KubeletPKI is where the kubelet keeps certificates that it asks for itself.
func (p Paths) KubeletPKI() string { return join.Files{Dir: p.agent()}.KubeletPKI() }

// VolumePlugins is where FlexVolume drivers are looked for.
func (p Paths) VolumePlugins() string { return p.agent("volume-plugins") }

// CNIConf is the directory of the CNI configuration that containerd reads.
func (p Paths) CNIConf() string { return p.agent("etc", "cni", "net.d") }

func joinAddrs(addrs []netip.Addr) string {
	s := make([]string, len(addrs))
	for i, a := range addrs {
		s[i] = a.String()
	}
	return strings.Join(s, ",")
}
