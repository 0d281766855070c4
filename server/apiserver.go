package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
	"k8s.io/kubernetes/pkg/api/legacyscheme"

	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/probe"
	"github.com/limpetio/limpet/internal/upstream"
)

const apiserverName = "kube-apiserver"

// apiserver runs kube-apiserver. Its server chain is held, so that other parts
// can hang handlers on its mux: one port, one TLS set-up, upstream's authentication.
type apiserver struct {
	opts      *options.ServerRunOptions
	completed options.CompletedOptions
	chain     atomic.Pointer[aggregator.APIAggregator]
	// handlers are served by the apiserver's own mux, behind its
	// authentication and authorization, under their exact path, or below it if it
	// ends in a slash.
	handlers map[string]http.Handler
	// configured is called with the configuration before servers are made of it.
	configured func(*app.Config) error
}

// handle hangs a handler on the apiserver's mux; before Run.
func (a *apiserver) handle(path string, h http.Handler) {
	if a.handlers == nil {
		a.handlers = map[string]http.Handler{}
	}
	a.handlers[path] = h
}

// newAPIServer parses the arguments. It changes nothing but the process-wide
// feature gates, and fails on an argument that kube-apiserver does not accept.
func newAPIServer(args []string) (*apiserver, error) {
	opts := options.NewServerRunOptions()
	if err := upstream.Parse(apiserverName, opts.Flags(), args); err != nil {
		return nil, err
	}
	// A token that was deleted or rotated is to be dead at once, not ten seconds later.
	opts.Authentication.TokenSuccessCacheTTL = time.Second
	return &apiserver{opts: opts}, nil
}

// apiserverArgs are the arguments that follow from the configuration.
func apiserverArgs(cfg config.Server, l layout, c *Certificates, datastore string) []string {
	args := []string{
		"etcd-servers=" + datastore,
		"bind-address=" + cfg.BindAddress.String(),
		"advertise-address=" + cfg.AdvertiseAddress.String(),
		"secure-port=" + strconv.Itoa(cfg.HTTPSListenPort),
		"tls-cert-file=" + c.APIServer.Cert, "tls-private-key-file=" + c.APIServer.Key,
		"tls-min-version=VersionTLS12",
		"client-ca-file=" + c.ClientCA,
		"kubelet-certificate-authority=" + c.ServerCA,
		"kubelet-client-certificate=" + c.KubeletClient.Cert, "kubelet-client-key=" + c.KubeletClient.Key,
		"kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname",
		"service-account-issuer=https://kubernetes.default.svc." + cfg.ClusterDomain,
		"service-account-key-file=" + c.ServiceAccountKey, "service-account-signing-key-file=" + c.ServiceAccountKey,
		"service-cluster-ip-range=" + join(cfg.ServiceCIDR),
		"service-node-port-range=" + cfg.ServiceNodePortRange,
		"authorization-mode=Node,RBAC",
		"enable-admission-plugins=NodeRestriction",
		"enable-bootstrap-token-auth=true",
		"allow-privileged=true",
		"requestheader-client-ca-file=" + c.RequestHeaderCA,
		"requestheader-allowed-names=" + frontProxyName,
		"requestheader-extra-headers-prefix=X-Remote-Extra-",
		"requestheader-group-headers=X-Remote-Group", "requestheader-username-headers=X-Remote-User",
		"proxy-client-cert-file=" + c.FrontProxy.Cert, "proxy-client-key-file=" + c.FrontProxy.Key,
		// Webhooks and aggregated APIs are called at their pods' addresses: a
		// Service's address leads nowhere when the pod is behind NAT.
		"enable-aggregator-routing=true",
		// One server: neither the Service "kubernetes" nor the identity of the
		// server needs a lease, renewed in the datastore every ten seconds.
		"endpoint-reconciler-type=master-count",
		"feature-gates=APIServerIdentity=false,UnknownVersionInteroperabilityProxy=false",
		// Edge sizes. The datastore answers from the same machine, and a box
		// has tens of clients rather than thousands.
		"max-requests-inflight=200", "max-mutating-requests-inflight=100",
		"profiling=false",
		"shutdown-delay-duration=0s",
		"storage-media-type=application/vnd.kubernetes.protobuf",
		"event-ttl=1h",
	}
	// A user's own authentication set-up replaces ours as a whole: upstream
	// refuses the file together with the flags.
	if !upstream.Names(cfg.KubeAPIServerArgs, "authentication-config", "anonymous-auth", "oidc-*") {
		args = append(args, "authentication-config="+l.authenticationConfig())
	} else if !upstream.Names(cfg.KubeAPIServerArgs, "authentication-config", "anonymous-auth") {
		// There is no flag for single paths. The roles let the anonymous user have
		// no others, and machines that join are anonymous at first.
		args = append(args, "anonymous-auth=true")
	}
	if cfg.AuditLogPath != "" {
		args = append(args, "audit-log-path="+cfg.AuditLogPath, "audit-log-mode=batch",
			"audit-log-maxage=30", "audit-log-maxbackup=3", "audit-log-maxsize=20")
		policy := cfg.AuditPolicyFile
		if policy == "" {
			policy = l.auditPolicy()
		}
		args = append(args, "audit-policy-file="+policy)
	}
	return upstream.Merge(args, cfg.KubeAPIServerArgs)
}

// authenticationConfig lets the anonymous user ask for health and version, which
// load balancers need, and for what server/join serves to those who join.
const authenticationConfig = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /healthz
  - path: /livez
  - path: /readyz
  - path: /version
  - path: /cacerts
  - path: /v1-limpet/token-check
`

// auditPolicy records who changed what, without the contents: a Secret's value
// must not end up in a log, and a log on flash must stay small.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi/*"]
- level: None
  resources: [{group: coordination.k8s.io, resources: [leases]}, {group: "", resources: [events]}, {group: events.k8s.io, resources: [events]}]
- level: None
  userGroups: ["system:nodes", "system:serviceaccounts:kube-system"]
  verbs: [get, list, watch]
- level: Metadata
`

func (l layout) writeAPIServerFiles() error {
	if err := atomicfile.Write(l.authenticationConfig(), []byte(authenticationConfig), 0o600); err != nil {
		return err
	}
	return atomicfile.Write(l.auditPolicy(), []byte(auditPolicy), 0o600)
}

// validate fixes the feature gates that the control plane shares, after the
// arguments of all its components have been parsed, and checks the values of
// this one's as far as no file is needed for it; complete checks the rest.
func (a *apiserver) validate() error {
	o := a.opts
	if err := o.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return &upstream.ArgError{Component: apiserverName, Err: err}
	}
	errs := slices.Concat(
		o.GenericServerRunOptions.Validate(), o.Etcd.Validate(), o.SecureServing.Validate(),
		o.Authorization.Validate(), o.Audit.Validate(), o.Admission.Validate(), o.Metrics.Validate(),
		o.APIEnablement.Validate(legacyscheme.Scheme, apiextensions.Scheme, aggregatorscheme.Scheme),
	)
	if len(errs) > 0 {
		return &upstream.ArgError{Component: apiserverName, Err: errors.Join(errs...)}
	}
	return nil
}

// complete fills in and validates the options; the certificates exist by now.
func (a *apiserver) complete(ctx context.Context) error {
	completed, err := a.opts.Complete(ctx)
	if err != nil {
		return &upstream.ArgError{Component: apiserverName, Err: err}
	}
	if errs := completed.Validate(); len(errs) > 0 {
		return &upstream.ArgError{Component: apiserverName, Err: errors.Join(errs...)}
	}
	a.completed = completed
	return nil
}

func (a *apiserver) Name() string { return apiserverName }

// Loopback is the privileged client configuration of the running apiserver,
// for limpet's own controllers in this process; nil before it is ready.
func (a *apiserver) Loopback() *rest.Config {
	chain := a.chain.Load()
	if chain == nil {
		return nil
	}
	cfg := rest.CopyConfig(chain.GenericAPIServer.LoopbackClientConfig)
	cfg.QPS = -1 // in the same process: fairness is the apiserver's business
	return cfg
}

func (a *apiserver) Run(ctx context.Context, ready func()) error {
	ctx = logging.Upstream(ctx, apiserverName)
	cfg, err := app.NewConfig(a.completed)
	if err != nil {
		return fmt.Errorf("configure: %w", err)
	}
	if a.configured != nil {
		if err := a.configured(cfg); err != nil {
			return fmt.Errorf("configure: %w", err)
		}
	}
	completed, err := cfg.Complete()
	if err != nil {
		return fmt.Errorf("complete configuration: %w", err)
	}
	chain, err := app.CreateServerChain(completed)
	if err != nil {
		return fmt.Errorf("create server chain: %w", err)
	}
	// Clients in this process that cannot be stopped (kube-proxy's watches) hold
	// their connections open: upstream would wait a minute for them.
	chain.GenericAPIServer.ShutdownTimeout = 2 * time.Second
	for path, handler := range a.handlers {
		if strings.HasSuffix(path, "/") {
			chain.GenericAPIServer.Handler.NonGoRestfulMux.HandlePrefix(path, handler)
		} else {
			chain.GenericAPIServer.Handler.NonGoRestfulMux.Handle(path, handler)
		}
	}
	prepared, err := chain.PrepareRun()
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- prepared.Run(ctx) }()
	readyz := make(chan error, 1)
	waitCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { readyz <- bootstrap(waitCtx, chain.GenericAPIServer) }()
	for {
		select {
		case err := <-readyz:
			if err != nil {
				return err
			}
			a.chain.Store(chain)
			ready()
			readyz = nil
		case err := <-ended:
			if err == nil && ctx.Err() == nil {
				err = fmt.Errorf("stopped serving by itself")
			}
			return err
		}
	}
}

// bootstrap returns when the others can start: the apiserver serves, and the
// default policy is there.
func bootstrap(ctx context.Context, s *genericapiserver.GenericAPIServer) error {
	cfg := rest.CopyConfig(s.LoopbackClientConfig)
	cfg.QPS = -1
	if err := waitOK(ctx, cfg, "/readyz"+slowHooks); err != nil {
		return err
	}
	return seedPolicy(ctx, cfg)
}

// awaitHealthy returns when the running apiserver's own checks are all
// fulfilled, the slow hooks among them.
func (a *apiserver) awaitHealthy(ctx context.Context) error {
	return waitOK(ctx, a.Loopback(), "/healthz")
}

// waitOK returns when a path answers 200. Nothing tells when the last post-start
// hook is done, so it asks, in short steps and only while starting.
func waitOK(ctx context.Context, cfg *rest.Config, path string) error {
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return fmt.Errorf("loopback client: %w", err)
	}
	defer client.CloseIdleConnections()
	return probe.Await(ctx, client, strings.TrimSuffix(cfg.Host, "/")+path, 10*time.Millisecond)
}

func join[T fmt.Stringer](list []T) string {
	s := make([]string, len(list))
	for i, v := range list {
		s[i] = v.String()
	}
	return strings.Join(s, ",")
}
