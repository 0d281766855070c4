package agent

import (
	"context"
	"fmt"
	"os"
	"strings"

	"k8s.io/kubernetes/cmd/kube-proxy/app"

	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/upstream"
)

const (
	kubeProxyName        = "kube-proxy"
	kubeProxyHealthPort  = 10256
	kubeProxyMetricsPort = 10249
)

// kubeProxy runs upstream's kube-proxy in nftables mode.
type kubeProxy struct {
	opts *app.Options
}

// newKubeProxy fails on an argument that kube-proxy does not accept.
func newKubeProxy(o Options) (*kubeProxy, error) {
	opts := app.NewOptions()
	fs := upstream.NewFlagSet(kubeProxyName)
	opts.AddFlags(fs)
	if err := upstream.ParseFlags(kubeProxyName, fs, kubeProxyArgs(o)); err != nil {
		return nil, err
	}
	if err := opts.Complete(fs); err != nil {
		return nil, &upstream.ArgError{Component: kubeProxyName, Err: err}
	}
	if err := opts.Validate(); err != nil {
		return nil, &upstream.ArgError{Component: kubeProxyName, Err: err}
	}
	return &kubeProxy{opts: opts}, nil
}

func kubeProxyArgs(o Options) []string {
	cidrs := make([]string, len(o.ClusterCIDR))
	for i, p := range o.ClusterCIDR {
		cidrs[i] = p.String()
	}
	args := []string{
		"kubeconfig=" + o.Identity.ProxyKubeconfig,
		"proxy-mode=nftables",
		"cluster-cidr=" + strings.Join(cidrs, ","),
		"hostname-override=" + o.Config.NodeName,
		fmt.Sprintf("healthz-bind-address=127.0.0.1:%d", kubeProxyHealthPort),
		fmt.Sprintf("metrics-bind-address=127.0.0.1:%d", kubeProxyMetricsPort),
		"config-sync-period=24h", // watches are enough; upstream re-delivers everything every 15 min
	}
	if !conntrackWritable() {
		// In a container or a network namespace the machine's own limits
		// cannot be changed, and trying would end kube-proxy.
		args = append(args, "conntrack-max-per-core=0", "conntrack-min=0")
	}
	return upstream.Merge(args, o.Config.KubeProxyArgs)
}

// conntrackWritable reports whether the size of the connection table can be set.
func conntrackWritable() bool {
	f, err := os.OpenFile("/proc/sys/net/netfilter/nf_conntrack_max", os.O_WRONLY, 0)
	if err != nil {
		return os.IsNotExist(err) // the module is not loaded yet
	}
	_ = f.Close()
	return true
}

func (p *kubeProxy) Name() string { return kubeProxyName }

func (p *kubeProxy) Run(ctx context.Context, ready func()) error {
	ctx = logging.Upstream(ctx, kubeProxyName)
	ended := make(chan error, 1)
	go func() { ended <- p.opts.Run(ctx) }()
	go func() {
		if waitHealthz(ctx, "127.0.0.1", kubeProxyMetricsPort) == nil {
			ready()
		}
	}()
	select {
	case err := <-ended:
		return fmt.Errorf("stopped by itself: %w", err)
	case <-ctx.Done():
		// Upstream's Run does not return on its context. Its rules stay in
		// place, so that Services go on working while limpet restarts.
		return nil
	}
}
