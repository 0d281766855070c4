// Package config holds the one validated description of what a limpet process
// shall do, and how it is put together from flags, environment and files.
package config

import (
	"net/netip"
	"os"
	"path/filepath"

	"github.com/limpetio/limpet/datastore/snapshot"
)

// Node is what both modes need to run the node: containerd, kubelet,
// kube-proxy, flannel.
type Node struct {
	// DataDir is where all persistent state lives; default /var/lib/limpet.
	DataDir string
	// Debug raises the log level of limpet's own parts to debug.
	Debug bool
	// Verbosity is klog's -v for the upstream components; default 0.
	Verbosity int

	// Token and ServerURL are how an agent finds and trusts its server.
	Token     string
	TokenFile string
	ServerURL string

	// NodeName is the name of the Node object; default the lower-case host name.
	NodeName   string
	WithNodeID bool
	NodeLabels []string
	NodeTaints []string
	// NodeIP holds at most one address of each family; empty means: choose by
	// the default route, else by the first usable interface.
	NodeIP         []netip.Addr
	NodeExternalIP []netip.Addr

	// ResolvConf is the resolv.conf given to kubelet and DNS; empty: detect.
	ResolvConf       string
	FlannelIface     string
	PrivateRegistry  string // registries.yaml; default /etc/limpet/registries.yaml
	Snapshotter      string // default overlayfs
	PauseImage       string // default limpet.io/pause:1
	DefaultRuntime   string // default runc
	DisableKubeProxy bool
	// DisableNodeLocalDNS: the node's pods use the DNS servers of other nodes.
	DisableNodeLocalDNS bool
	// DisableDefaultRegistryEndpoint stops containerd from falling back to the
	// registry named in the image when all its mirrors failed.
	DisableDefaultRegistryEndpoint bool
	// ContainerRuntimeEndpoint uses a CRI socket of someone else instead of the built-in containerd.
	ContainerRuntimeEndpoint string
	ProtectKernelDefaults    bool

	KubeletArgs   []string
	KubeProxyArgs []string
}

// Server is what `limpet server` runs: the control plane and, unless
// DisableAgent, a node in the same process.
type Server struct {
	Node

	BindAddress      netip.Addr // default 0.0.0.0 (or :: when the service range is IPv6 only)
	HTTPSListenPort  int        // default 6443
	AdvertiseAddress netip.Addr // default the node IP
	TLSSANs          []string

	ClusterCIDR          []netip.Prefix // default 10.42.0.0/16
	ServiceCIDR          []netip.Prefix // default 10.43.0.0/16
	ServiceNodePortRange string         // default 30000-32767
	ClusterDNS           []netip.Addr   // default the tenth address of each service range
	ClusterDomain        string         // default cluster.local
	FlannelBackend       string         // vxlan (default), host-gw, none
	FlannelExternalIP    bool

	WriteKubeconfig      string      // default /etc/limpet/limpet.yaml
	WriteKubeconfigMode  os.FileMode // default 0600
	WriteKubeconfigGroup string      // name or number; default: leave as it is

	// Disable names packaged components (PackagedComponents) that are not
	// deployed. Files that users put into the manifests directory are left out
	// by a file of the same name with .skip.
	Disable                  []string
	DisableAgent             bool
	DisableScheduler         bool
	DisableControllerManager bool

	Snapshots Snapshots

	AuditLogPath    string // "-" is standard output; empty: no audit log
	AuditPolicyFile string // empty: a built-in metadata-level policy when AuditLogPath is set

	KubeAPIServerArgs         []string
	KubeControllerManagerArgs []string
	KubeSchedulerArgs         []string
}

// Database is the file of the datastore.
func (s *Server) Database() string { return filepath.Join(s.DataDir, "server", "db", "state.db") }

// Snapshots says when copies of the datastore are taken and where they go.
type Snapshots struct {
	Schedule  string // a duration or a cron expression; default 6h; "off": none are taken by themselves
	Retention int    // how many scheduled ones are kept; default 5
	Dir       string // default <data-dir>/server/db/snapshots
	// S3 also uploads them to Bucket.
	S3     bool
	Bucket snapshot.S3Config
}

// Scheduled reports whether snapshots are taken by themselves.
func (s Snapshots) Scheduled() bool { return s.Schedule != SnapshotsOff }

// Agent is what `limpet agent` runs.
type Agent struct {
	Node
}
