package agent

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/agent/network"
	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/created"
	"github.com/limpetio/limpet/internal/machine"
	"github.com/limpetio/limpet/internal/reserve"
	"github.com/limpetio/limpet/internal/status"
	"github.com/limpetio/limpet/internal/upgrade"
	"github.com/limpetio/limpet/internal/version"
)

// assemble says what runs after what. What is added before announcer is what
// the node is not up without.
func (a *agent) assemble(announcer, settler component.Component) error {
	b := machine.Assembly{Supervisor: a.supervisor}
	api := a.balancer.Name()
	b.Add(&status.Server{Path: status.Socket, Report: a.report}, component.Spec{Restart: true})
	b.Add(upgrade.Component(), component.Spec{})
	if a.addressFound {
		b.Add(&network.AddressWatch{NodeIP: a.cfg.NodeIP, Interface: a.cfg.FlannelIface, Logger: a.log.With("component", "node-address")}, component.Spec{})
	}
	b.Add(a.balancer, component.Spec{Restart: true})
	b.Add(a.offline.server, component.Spec{})
	b.Add(a.identities, component.Spec{After: []string{api}, Restart: true})
	b.Add(membership(a.files()), component.Spec{After: []string{identitiesName}})
	b.Add(a.offline.recorder, component.Spec{After: []string{identitiesName}, Restart: true})
	b.Add(a.registration(), component.Spec{After: []string{api}, Restart: true})
	b.Add(a.tunnel, component.Spec{After: []string{RegistrationName}, Restart: true})
	b.Do(func() error { return a.node.Add(a.supervisor, api, RegistrationName, identitiesName) })
	b.Add(a.servers(), component.Spec{After: []string{identitiesName}, Restart: true})
	b.Add(&settings{restConfig: a.kubeletConfig, files: a.files(), running: a.settings, log: a.log.With("component", settingsName)},
		component.Spec{After: []string{api}})
	b.Do(func() error { return a.supervisor.Add(announcer, component.Spec{After: b.Added()}) })
	b.Add(a.node.ImageArrivals(), component.Spec{After: []string{RegistrationName}, Restart: true})
	b.Add(a.upgrades(), component.Spec{After: []string{RegistrationName, identitiesName}, Restart: true})
	b.Add(settler, component.Spec{After: []string{announcer.Name()}})
	b.Add(created.Settler(a.cfg.DataDir, a.log), component.Spec{After: []string{announcer.Name()}})
	b.Add(machine.PayloadKeeper(a.cfg.DataDir, a.log), component.Spec{After: []string{announcer.Name()}})
	b.Add(reserve.Keeper(a.cfg.DataDir, a.log), component.Spec{After: []string{announcer.Name()}})
	return b.Err
}

// registration creates the Node with the kubelet's identity.
func (a *agent) registration() *Registration {
	return &Registration{Config: a.cfg, RestConfig: a.kubeletConfig}
}

// servers keeps the balancer's list of servers. Without kube-proxy nobody on
// this node may read the endpoints of the API: the list is the one of the join
// settings then.
func (a *agent) servers() component.Component {
	joined := func() []string { return a.settings.Servers }
	if !a.withProxy() {
		return component.Func("servers", func(_ context.Context, ready func()) error {
			a.balancer.SetServers(joined())
			ready()
			return nil
		})
	}
	return component.Func("servers", func(ctx context.Context, ready func()) error {
		config, err := clientConfig(a.files().Kubeconfig(proxyIdentity))
		if err != nil {
			return err
		}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return fmt.Errorf("client for the list of servers: %w", err)
		}
		return a.balancer.Follow(client, joined).Run(ctx, ready)
	})
}

// kubeletConfig is a client configuration with the kubelet's identity.
func (a *agent) kubeletConfig() (*rest.Config, error) {
	return clientConfig(a.files().Kubeconfig(kubeletIdentity))
}

// checkPorts finds a port that another program listens on, before anything is changed.
func (a *agent) checkPorts(n *Node) error {
	ports := n.Ports()
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		if err := machine.PortFree(name, ports[name], "since a node needs this port"); err != nil {
			return err
		}
	}
	return nil
}

// report is what `limpet status` prints.
func (a *agent) report() status.Report {
	r := a.baseReport(a.supervisor.States())
	r.Tunnels = tunnelStatus(a.tunnel)
	r.Upgrade = upgrade.Status(a.cfg.DataDir)
	r.DNS = a.node.DNS()
	for _, s := range a.balancer.Status().Servers {
		r.Servers = append(r.Servers, status.APIServer{Address: s.Address, State: string(s.State), Since: s.Since, Active: s.Active, Reason: s.Reason})
	}
	r.Certificates = a.identities.certificates()
	if since, active := a.offline.server.Active(); active {
		r.FromRecord = since
	}
	for _, f := range a.node.Images() {
		r.Images = append(r.Images, status.File{Name: f.File, State: string(f.State), Since: f.Since, Error: f.Error})
	}
	return r
}

func (a *agent) baseReport(states []component.State) status.Report {
	return status.Report{
		Version: version.Version, Kubernetes: version.KubernetesVersion,
		Mode: "agent", Node: a.cfg.NodeName, PID: os.Getpid(), Started: a.started, Components: states,
	}
}
