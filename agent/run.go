package agent

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/limpetio/limpet/agent/join"
	"github.com/limpetio/limpet/agent/loadbalancer"
	"github.com/limpetio/limpet/agent/network"
	"github.com/limpetio/limpet/agent/tunnel"
	"github.com/limpetio/limpet/agent/upgrades"
	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/created"
	"github.com/limpetio/limpet/internal/hostcheck"
	joincfg "github.com/limpetio/limpet/internal/join"
	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/machine"
	"github.com/limpetio/limpet/internal/memory"
	"github.com/limpetio/limpet/internal/nodeid"
	"github.com/limpetio/limpet/internal/payload"
	_ "github.com/limpetio/limpet/internal/quiet" // keeps idle work queues asleep
	"github.com/limpetio/limpet/internal/reserve"
	"github.com/limpetio/limpet/internal/sdnotify"
	"github.com/limpetio/limpet/internal/upgrade"
)

// Run makes this machine a node of a cluster and blocks until ctx is done or a
// component fails that cannot be restarted. Whatever is wrong with the
// configuration or the machine is reported before anything is changed, and so
// is a refusal by the server (a *join.Error).
func Run(ctx context.Context, cfg config.Agent) error {
	started := time.Now()
	notifier := sdnotify.Take()
	terminal := logging.Terminal(os.Stderr)
	logs := logging.Setup(os.Stderr, logging.Options{Debug: cfg.Debug, Verbosity: cfg.Verbosity, Quiet: terminal})

	settler := memory.Starting(logs.Root.With("component", "memory"))
	if err := upgrade.Boot(ctx, cfg.DataDir, logs.Root); err != nil || ctx.Err() != nil {
		return err
	}
	a := &agent{cfg: cfg.Node, log: logs.Root, started: started, notifier: notifier}
	if err := a.check(); err != nil {
		return err
	}
	grant, err := a.member(ctx)
	if err != nil || ctx.Err() != nil {
		return err
	}
	release, err := machine.Lock(a.cfg.DataDir)
	if err != nil {
		return err
	}
	defer release()
	reserve.Release(a.cfg.DataDir, a.log)
	if err := a.prepare(ctx, grant); err != nil {
		return err
	}
	observe := component.LogTo(a.log)
	if terminal {
		observe = component.Timeline(os.Stderr, started)
	}
	a.supervisor = component.New(component.Options{Logger: a.log, Started: started, Observe: observe})
	if err := a.assemble(machine.Announcer(notifier, "limpet status"), settler); err != nil {
		return err
	}
	context.AfterFunc(ctx, func() {
		notifier.Stopping()
		logs.Stopping()
	})
	return a.supervisor.Run(ctx)
}

// agent is what Run puts together, step by step.
type agent struct {
	cfg      config.Node
	log      *slog.Logger
	started  time.Time
	notifier sdnotify.Notifier

	host       hostcheck.Host
	resolvConf string
	serverAddr string // HOST:PORT of --server
	// addressFound: the node's address was not given, and may change.
	addressFound bool

	identity      nodeid.Key
	identityFresh bool // it is not kept yet

	settings   joincfg.Config
	payload    payload.Dir
	balancer   *loadbalancer.Balancer
	identities *identities
	node       *Node
	tunnel     *tunnel.Tunnel
	offline    offline
	ownNode    *upgrades.OwnNode
	supervisor *component.Supervisor
}

func (a *agent) files() join.Files { return join.Files{Dir: Paths{a.cfg.DataDir}.agent()} }

// check finds what can be known to be wrong without asking the server and
// without changing anything.
func (a *agent) check() error {
	if err := machine.RequireRoot(); err != nil {
		return err
	}
	var err error
	if _, a.serverAddr, err = join.ParseServer(a.cfg.ServerURL); err != nil {
		return err
	}
	if a.host, err = hostcheck.Detect(); err != nil {
		return err
	}
	if a.resolvConf, err = ResolvConf(a.cfg.ResolvConf); err != nil {
		return err
	}
	if err := a.nodeID(); err != nil {
		return err
	}
	// The arguments for upstream's components are checked with settings like
	// those that the server will give.
	trial, err := New(a.options(trialSettings()))
	if err != nil {
		return err
	}
	if err := trial.Validate(); err != nil {
		return err
	}
	if err := machine.LockHeld(a.cfg.DataDir); err != nil {
		return err // rather than that its port is taken
	}
	return a.checkPorts(trial)
}

func trialSettings() joincfg.Config {
	return joincfg.Config{
		ClusterCIDR:   []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		ServiceCIDR:   []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		ClusterDNS:    []netip.Addr{netip.MustParseAddr("10.43.0.10")},
		ClusterDomain: "cluster.local", FlannelBackend: config.FlannelVXLAN,
	}
}

// nodeID reads the machine's identity key and appends the machine's own suffix
// to the node name, for those whose machines all have the same host name. The
// suffix follows from the key, so that the name outlives the data directory as
// the key does.
func (a *agent) nodeID() error {
	var err error
	if a.identity, a.identityFresh, err = nodeid.LoadOrGenerate(nodeid.DefaultFile); err != nil {
		return fmt.Errorf("%w; if it cannot be restored, remove it and let this machine join again (limpet node rejoin on the server)", err)
	}
	if !a.cfg.WithNodeID {
		return nil
	}
	fingerprint, err := a.identity.Fingerprint()
	if err != nil {
		return err
	}
	a.cfg.NodeName += "-" + fingerprint[:8]
	return nil
}

// prepare changes the machine: what was granted, directories, helpers, kubeconfigs.
func (a *agent) prepare(ctx context.Context, grant *join.Grant) error {
	var err error
	if a.payload, err = machine.UnpackPayload(ctx, a.cfg.DataDir, a.log); err != nil {
		return err
	}
	if err := created.Begin(ctx, a.cfg.DataDir, a.log); err != nil {
		return err
	}
	if grant != nil {
		if err := grant.Save(a.files()); err != nil {
			return err
		}
	} else if err := a.keepIdentity(); err != nil { // it was removed since
		return err
	}
	if err := a.addresses(ctx); err != nil {
		return err
	}
	if err := machine.RunDir(RunDir); err != nil {
		return err
	}
	if a.identities, err = newIdentities(a.cfg.NodeName, a.files(), a.withProxy(), a.identity); err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(a.settings.ServerCA))
	if a.balancer, err = loadbalancer.New(loadbalancer.Options{
		Servers: []string{a.serverAddr}, File: a.files().Servers(), Roots: roots,
		StandIn: a.dialStandIn,
		Logger:  a.log.With("component", "load-balancer"),
	}); err != nil {
		return err
	}
	a.ownNode = upgrades.NewOwnNode()
	opts := a.options(a.settings)
	opts.OwnNode = a.ownNode.Seen
	if a.node, err = New(opts); err != nil {
		return err
	}
	if err := a.node.Validate(); err != nil {
		return err
	}
	if err := a.prepareOffline(); err != nil {
		return err
	}
	a.node.UsePayload(a.payload.Bin(), a.payload.PauseArchive())
	a.tunnel = a.reverseTunnel()
	return a.node.Prepare()
}

// addresses waits until the machine has an address of each of the cluster's
// families: at boot that may be later than limpet.
func (a *agent) addresses(ctx context.Context) error {
	if len(a.cfg.NodeIP) > 0 {
		return nil
	}
	a.addressFound = true
	v4 := slices.ContainsFunc(a.settings.ClusterCIDR, func(p netip.Prefix) bool { return p.Addr().Is4() })
	v6 := slices.ContainsFunc(a.settings.ClusterCIDR, func(p netip.Prefix) bool { return p.Addr().Is6() })
	for pause := time.Second; ; pause = min(2*pause, 15*time.Second) {
		found, err := network.NodeAddresses(v4, v6, a.cfg.FlannelIface)
		if err == nil {
			a.cfg.NodeIP = found
			return nil
		}
		a.log.Warn("waiting for the machine to have an address", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (a *agent) withProxy() bool { return !a.cfg.DisableKubeProxy && !a.settings.DisableKubeProxy }

func (a *agent) options(s joincfg.Config) Options {
	files := a.files()
	cfg := a.cfg
	cfg.DisableKubeProxy = cfg.DisableKubeProxy || s.DisableKubeProxy
	return Options{
		Config: cfg, Host: a.host, Logger: a.log,
		Paths:       Paths{DataDir: a.cfg.DataDir},
		Taints:      Taints(a.cfg),
		ClusterCIDR: s.ClusterCIDR, ServiceCIDR: s.ServiceCIDR, ClusterDNS: s.ClusterDNS, ClusterDomain: s.ClusterDomain,
		FlannelBackend: s.FlannelBackend, FlannelExternalIP: s.FlannelExternalIP, ResolvConf: a.resolvConf,
		DisableDNS: a.cfg.DisableNodeLocalDNS || slices.Contains(s.Disable, DNSAddon),
		Identity: Identity{
			KubeletKubeconfig: files.Kubeconfig(kubeletIdentity),
			ProxyKubeconfig:   files.Kubeconfig(proxyIdentity),
			NetworkKubeconfig: files.Kubeconfig(networkIdentity),
			DNSKubeconfig:     files.Kubeconfig(dnsIdentity),
			ClientCA:          files.ClientCA(),
		},
	}
}
