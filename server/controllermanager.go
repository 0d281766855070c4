package server

import (
	"context"
	"errors"

	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"

	"github.com/limpetio/limpet/agent"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/upstream"
)

const controllerManagerName = "kube-controller-manager"

// controllerManager runs kube-controller-manager without leader election:
// upstream's ends the process when a lease is lost, and there is one server.
type controllerManager struct {
	opts *options.KubeControllerManagerOptions
	// healthy waits until the apiserver says that it is healthy.
	healthy func(context.Context) error
}

func newControllerManager(args []string) (*controllerManager, error) {
	opts, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, err
	}
	sets := opts.Flags(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	opts.ParsedFlags = &sets
	if err := upstream.Parse(controllerManagerName, sets, args); err != nil {
		return nil, err
	}
	return &controllerManager{opts: opts}, nil
}

// validate comes after the arguments of all components have been parsed, since
// it fixes the feature gates, which the components share.
func (m *controllerManager) validate() error {
	if err := m.opts.Validate(app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases()); err != nil {
		return &upstream.ArgError{Component: controllerManagerName, Err: err}
	}
	return nil
}

func controllerManagerArgs(cfg config.Server, c *Certificates) []string {
	return upstream.Merge([]string{
		"kubeconfig=" + c.ControllerManager.Kubeconfig,
		"secure-port=0", // its metrics are those of the process: see the apiserver's /metrics
		"leader-elect=false",
		"use-service-account-credentials=true",
		"service-account-private-key-file=" + c.ServiceAccountKey,
		"root-ca-file=" + c.ServerCA,
		"cluster-signing-kubelet-client-cert-file=" + c.ClientCA, "cluster-signing-kubelet-client-key-file=" + c.ClientCAKey,
		"cluster-signing-kube-apiserver-client-cert-file=" + c.ClientCA, "cluster-signing-kube-apiserver-client-key-file=" + c.ClientCAKey,
		"cluster-signing-kubelet-serving-cert-file=" + c.ServerCA, "cluster-signing-kubelet-serving-key-file=" + c.ServerCAKey,
		"cluster-signing-legacy-unknown-cert-file=" + c.ServerCA, "cluster-signing-legacy-unknown-key-file=" + c.ServerCAKey,
		"allocate-node-cidrs=true",
		"cluster-cidr=" + join(cfg.ClusterCIDR),
		"service-cluster-ip-range=" + join(cfg.ServiceCIDR),
		// Who gets a certificate is decided in server/approve alone, and expired
		// tokens are removed by server/join, which still knows them for a day.
		"controllers=*,bootstrap-signer-controller,-certificatesigningrequest-approving-controller",
		"kube-api-qps=100", "kube-api-burst=200",
		"controller-shutdown-timeout=3s",
		"profiling=false",
		// Its default is in /usr, which may be read-only.
		"flex-volume-plugin-dir=" + agent.Paths{DataDir: cfg.DataDir}.VolumePlugins(),
	}, cfg.KubeControllerManagerArgs)
}

// signWith names the certificates that sign requests. They are known only when
// the authorities have been opened: one that the user brought may have a chain,
// of which the signer needs the signing certificate alone.
func (m *controllerManager) signWith(c *Certificates) {
	signing := m.opts.CSRSigningController
	for _, signer := range []struct{ file, want, ca *string }{
		{&signing.KubeletServingSignerConfiguration.CertFile, &c.ServerCASigner, &c.ServerCA},
		{&signing.LegacyUnknownSignerConfiguration.CertFile, &c.ServerCASigner, &c.ServerCA},
		{&signing.KubeletClientSignerConfiguration.CertFile, &c.ClientCASigner, &c.ClientCA},
		{&signing.KubeAPIServerClientSignerConfiguration.CertFile, &c.ClientCASigner, &c.ClientCA},
	} {
		if *signer.file == *signer.ca { // else the user's own argument
			*signer.file = *signer.want
		}
	}
}

func (m *controllerManager) Name() string { return controllerManagerName }

func (m *controllerManager) Run(ctx context.Context, ready func()) error {
	ctx = logging.Upstream(ctx, controllerManagerName)
	// Upstream would wait for the same, but look once a second only, and up to
	// ten seconds deaf to its context.
	if err := m.healthy(ctx); err != nil {
		return err
	}
	cfg, err := m.opts.Config(ctx, app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases())
	if err != nil {
		return err
	}
	ready()
	if err := app.Run(ctx, cfg.Complete()); err != nil && ctx.Err() == nil {
		return err
	}
	if ctx.Err() == nil {
		return errors.New("stopped by itself")
	}
	return nil
}
