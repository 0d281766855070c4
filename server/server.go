// Package server runs the control plane and, unless it is switched off, a node
// in the same process.
package server

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/limpetio/limpet/agent"
	agenttunnel "github.com/limpetio/limpet/agent/tunnel"
	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/created"
	"github.com/limpetio/limpet/internal/hostcheck"
	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/machine"
	"github.com/limpetio/limpet/internal/memory"
	"github.com/limpetio/limpet/internal/payload"
	_ "github.com/limpetio/limpet/internal/quiet" // keeps idle work queues asleep
	"github.com/limpetio/limpet/internal/reserve"
	"github.com/limpetio/limpet/internal/sdnotify"
	"github.com/limpetio/limpet/internal/token"
	"github.com/limpetio/limpet/internal/upgrade"
	serverjoin "github.com/limpetio/limpet/server/join"
	"github.com/limpetio/limpet/server/releases"
	"github.com/limpetio/limpet/server/tunnel"
)

// Run brings up a server and blocks until ctx is done or a component fails that
// cannot be restarted. Whatever is wrong with the configuration, the host or an
// argument for an upstream component is reported before anything is changed.
func Run(ctx context.Context, cfg config.Server) error {
	started := time.Now()
	notifier := sdnotify.Take()
	terminal := logging.Terminal(os.Stderr)
	logs := logging.Setup(os.Stderr, logging.Options{Debug: cfg.Debug, Verbosity: cfg.Verbosity, Quiet: terminal})
	log := logs.Root

	settler := memory.Starting(log.With("component", "memory"))
	if err := upgrade.Boot(ctx, cfg.DataDir, log); err != nil || ctx.Err() != nil {
		return err
	}
	s := &server{cfg: cfg, layout: layout{dataDir: cfg.DataDir}, log: log, started: started}
	if err := s.check(); err != nil {
		return err
	}
	release, err := machine.Lock(cfg.DataDir)
	if err != nil {
		return err
	}
	defer release()
	reserve.Release(cfg.DataDir, log)
	if err := s.prepare(ctx); err != nil {
		return err
	}
	observe := component.LogTo(log)
	if terminal {
		observe = component.Timeline(os.Stderr, started)
	}
	s.supervisor = component.New(component.Options{Logger: log, Started: started, Observe: observe})
	if err := s.assemble(machine.Announcer(notifier, "limpet kubectl get nodes"), settler); err != nil {
		return err
	}
	context.AfterFunc(ctx, func() {
		notifier.Stopping()
		logs.Stopping()
	})
	return s.supervisor.Run(ctx)
}

// server is what Run puts together, step by step.
type server struct {
	cfg     config.Server
	layout  layout
	log     *slog.Logger
	started time.Time

	host    hostcheck.Host
	payload payload.Dir
	certs   *Certificates
	// resolvConf is what pods with the node's DNS policy get.
	resolvConf string
	// newNodeID is to be kept; empty if it is already, or not wanted.
	newNodeID string
	// addressFound: the node's address was not given, and may change.
	addressFound bool

	datastore         *datastore
	snapshots         *snapshots
	apiserver         *apiserver
	controllerManager *controllerManager
	scheduler         *scheduler
	node              *agent.Node
	addons            addons
	tokens            *serverjoin.Tokens
	tunnels           *tunnel.Hub
	releases          *releases.Store
	chosenToken       token.Token // of the configuration; zero: none
	supervisor        *component.Supervisor
}

// check finds what can be known to be wrong without changing anything.
func (s *server) check() error {
	if err := machine.RequireRoot(); err != nil {
		return err
	}
	var err error
	if s.host, err = hostcheck.Detect(); err != nil {
		return err
	}
	if s.resolvConf, err = agent.ResolvConf(s.cfg.ResolvConf); err != nil {
		return err
	}
	if err := s.nodeID(); err != nil {
		return err
	}
	if err := s.addresses(); err != nil {
		return err
	}
	if err := s.checkToken(); err != nil {
		return err
	}
	if err := s.buildComponents(); err != nil {
		return err
	}
	if err := machine.LockHeld(s.cfg.DataDir); err != nil {
		return err // rather than that its port is taken
	}
	return s.checkPorts()
}

// buildComponents parses the arguments of every upstream component. Paths of
// files that do not exist yet are no trouble: nothing is opened.
func (s *server) buildComponents() error {
	s.certs = certificatePaths(s.cfg, s.layout.tls())
	s.datastore = &datastore{
		file: s.cfg.Database(), socket: DatastoreSocket,
		snapshotDir: s.cfg.Snapshots.Dir, node: s.cfg.NodeName, log: s.log.With("component", "datastore"),
	}
	var err error
	if s.snapshots, err = newSnapshots(s.cfg, s.datastore, s.log.With("component", "snapshots")); err != nil {
		return err
	}
	if s.apiserver, err = newAPIServer(apiserverArgs(s.cfg, s.layout, s.certs, s.datastore.Endpoint())); err != nil {
		return err
	}
	s.tunnels = tunnel.New(s.log.With("component", agenttunnel.Name))
	s.apiserver.handle(agenttunnel.Path, s.tunnels)
	s.prepareUpgrades()
	s.apiserver.configured = func(cfg *app.Config) error {
		allowLongDownloads(cfg)
		return useTunnels(cfg, s.tunnels)
	}
	if !s.cfg.DisableControllerManager {
		if s.controllerManager, err = newControllerManager(controllerManagerArgs(s.cfg, s.certs)); err != nil {
			return err
		}
		s.controllerManager.healthy = s.apiserver.awaitHealthy
	}
	if !s.cfg.DisableScheduler {
		if s.scheduler, err = newScheduler(schedulerArgs(s.cfg, s.certs)); err != nil {
			return err
		}
	}
	if !s.cfg.DisableAgent {
		if s.node, err = agent.New(s.agentOptions()); err != nil {
			return err
		}
	}
	if err := s.apiserver.validate(); err != nil {
		return err
	}
	if s.controllerManager != nil {
		if err := s.controllerManager.validate(); err != nil {
			return err
		}
	}
	if s.node != nil {
		return s.node.Validate()
	}
	return nil
}

// prepare changes the machine: directories, helpers, certificates.
func (s *server) prepare(ctx context.Context) error {
	var err error
	if s.payload, err = machine.UnpackPayload(ctx, s.cfg.DataDir, s.log); err != nil {
		return err
	}
	if err := created.Begin(ctx, s.cfg.DataDir, s.log, s.cfg.WriteKubeconfig); err != nil {
		return err
	}
	if err := s.layout.create(); err != nil {
		return err
	}
	if s.newNodeID != "" {
		if err := os.MkdirAll(filepath.Dir(s.layout.nodeID()), 0o700); err != nil {
			return fmt.Errorf("create node directory: %w", err)
		}
		if err := atomicfile.Write(s.layout.nodeID(), []byte(s.newNodeID+"\n"), 0o600); err != nil {
			return fmt.Errorf("keep node id: %w", err)
		}
	}
	if s.certs, err = ensureCertificates(s.cfg, s.layout.tls(), time.Now(), s.log.With("component", "pki")); err != nil {
		return err
	}
	if s.controllerManager != nil {
		s.controllerManager.signWith(s.certs)
	}
	if err := s.layout.writeAPIServerFiles(); err != nil {
		return err
	}
	if err := s.prepareJoin(); err != nil {
		return err
	}
	if err := writeAdminKubeconfig(s.cfg, s.certs); err != nil {
		return err
	}
	if s.node != nil {
		s.node.UsePayload(s.payload.Bin(), s.payload.PauseArchive())
		if err := s.node.Prepare(); err != nil {
			return err
		}
	}
	return s.apiserver.complete(ctx)
}
