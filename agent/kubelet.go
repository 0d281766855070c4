package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/cmd/kubelet/app"
	"k8s.io/kubernetes/cmd/kubelet/app/options"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/apis/config"
	"k8s.io/kubernetes/pkg/kubelet/apis/config/validation"
	"k8s.io/kubernetes/pkg/volume/util/subpath"

	"github.com/limpetio/limpet/agent/mounter"
	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/upstream"
)

const kubeletName = "kubelet"

// kubelet runs upstream's kubelet. The command that upstream ships is not used:
// it takes over SIGTERM, which would stop the kubelet before those that rely on it.
type kubelet struct {
	server *options.KubeletServer
}

// newKubelet builds the kubelet's configuration from ours and puts the user's
// arguments over it. It changes nothing, and fails on an argument that the
// kubelet does not accept.
func newKubelet(o Options) (*kubelet, error) {
	flags := options.NewKubeletFlags()
	cfg, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, fmt.Errorf("kubelet defaults: %w", err)
	}
	if upstream.Names(o.Config.KubeletArgs, "config", "config-dir") {
		return nil, &upstream.ArgError{Component: kubeletName, Err: errors.New("a configuration file cannot be given: limpet configures the kubelet; pass single settings as --kubelet-arg")}
	}
	setKubeletFlags(flags, o)
	setKubeletConfig(cfg, o)

	fs := upstream.NewFlagSet(kubeletName)
	flags.AddFlags(fs)
	options.AddKubeletConfigFlags(fs, cfg)
	options.AddGlobalFlags(fs)
	if err := upstream.ParseFlags(kubeletName, fs, upstream.Merge(nil, o.Config.KubeletArgs)); err != nil {
		return nil, err
	}
	server := &options.KubeletServer{KubeletFlags: *flags, KubeletConfiguration: *cfg}
	if err := options.ValidateKubeletFlags(flags); err != nil {
		return nil, &upstream.ArgError{Component: kubeletName, Err: err}
	}
	return &kubelet{server: server}, nil
}

// validate comes after the feature gates of all components have been fixed.
func (k *kubelet) validate() error {
	if err := utilfeature.DefaultMutableFeatureGate.SetFromMap(k.server.FeatureGates); err != nil {
		return &upstream.ArgError{Component: kubeletName, Err: err}
	}
	if err := validation.ValidateKubeletConfiguration(&k.server.KubeletConfiguration, utilfeature.DefaultFeatureGate); err != nil {
		return &upstream.ArgError{Component: kubeletName, Err: err}
	}
	return nil
}

func setKubeletFlags(f *options.KubeletFlags, o Options) {
	f.KubeConfig = o.Identity.KubeletKubeconfig
	f.HostnameOverride = o.Config.NodeName
	f.NodeIP = joinAddrs(o.Config.NodeIP)
	if len(o.Config.NodeExternalIP) > 0 {
		// The kubelet knows no external addresses; told so, it leaves those of the
		// Node as the registration has written them.
		f.CloudProvider = "external"
	}
	f.RootDirectory = KubeletRoot
	f.CertDirectory = o.Paths.KubeletPKI()
	for _, label := range o.Config.NodeLabels {
		k, v, _ := strings.Cut(label, "=")
		f.NodeLabels[k] = v
	}
}

func setKubeletConfig(c *kubeletconfig.KubeletConfiguration, o Options) {
	c.ContainerRuntimeEndpoint = "unix://" + o.runtimeSocket()
	c.CgroupDriver = cgroupfsDriver
	if o.systemdCgroup() {
		c.CgroupDriver = systemdDriver
	}
	c.FailCgroupV1 = false
	c.FailSwapOn = false
	c.ProtectKernelDefaults = o.Config.ProtectKernelDefaults
	c.RegisterNode = true
	c.RegisterWithTaints = o.Taints

	c.Authentication.Anonymous.Enabled = false
	c.Authentication.Webhook.Enabled = true
	c.Authentication.X509.ClientCAFile = o.Identity.ClientCA
	c.Authorization.Mode = kubeletconfig.KubeletAuthorizationModeWebhook
	c.TLSCertFile, c.TLSPrivateKeyFile = o.Identity.KubeletServing.Cert, o.Identity.KubeletServing.Key
	c.ServerTLSBootstrap = c.TLSCertFile == ""
	c.TLSMinVersion = "VersionTLS12"
	c.ReadOnlyPort = 0

	c.ClusterDomain = o.ClusterDomain
	for _, addr := range o.ClusterDNS {
		c.ClusterDNS = append(c.ClusterDNS, addr.String())
	}
	c.ResolverConfig = o.ResolvConf

	// An image that was imported from a file after a pull of it had failed is
	// used at once, instead of being pulled again for ever.
	c.ImagePullCredentialsVerificationPolicy = string(kubeletconfig.NeverVerify)
	c.SerializeImagePulls = false
	parallel := int32(2)
	c.MaxParallelImagePulls = &parallel
	// Small disks: leave 5 % free, as k3s does, instead of upstream's 10–15 %.
	c.EvictionHard = map[string]string{"imagefs.available": "5%", "nodefs.available": "5%", "nodefs.inodesFree": "5%", "memory.available": "100Mi"}
	c.EvictionMinimumReclaim = map[string]string{"imagefs.available": "5%", "nodefs.available": "5%"}

	// Upstream asks for a million open files; a machine that lacks
	// CAP_SYS_RESOURCE cannot go beyond its hard limit.
	if !o.Host.HasSysResource && o.Host.NoFileHardLimit < uint64(c.MaxOpenFiles) {
		c.MaxOpenFiles = int64(o.Host.NoFileHardLimit)
	}
	c.ShutdownGracePeriod = metav1.Duration{}
	c.NodeStatusUpdateFrequency = metav1.Duration{Duration: 10 * time.Second}
	c.EnableProfilingHandler = false
	c.VolumePluginDir = o.Paths.VolumePlugins()
}

func (k *kubelet) Name() string { return kubeletName }

func (k *kubelet) Run(ctx context.Context, ready func()) error {
	ctx = logging.Upstream(ctx, kubeletName)
	deps, err := app.UnsecuredDependencies(ctx, k.server, utilfeature.DefaultFeatureGate)
	if err != nil {
		return fmt.Errorf("construct dependencies: %w", err)
	}
	if own := mounter.Choose(deps.Mounter); own != deps.Mounter {
		deps.Mounter, deps.Subpather = own, subpath.New(own)
	}
	ended := make(chan error, 1)
	go func() { ended <- app.Run(ctx, k.server, deps, utilfeature.DefaultFeatureGate) }()
	healthy := make(chan error, 1)
	go func() { healthy <- waitHealthz(ctx, k.server.HealthzBindAddress, int(k.server.HealthzPort)) }()
	for {
		select {
		case err := <-healthy:
			if err == nil {
				ready()
			}
			healthy = nil
		case err := <-ended:
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it was told to end
			}
			if err == nil {
				err = errors.New("stopped by itself")
			}
			return err
		}
	}
}
