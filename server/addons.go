package server

import (
	"slices"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/limpetio/limpet/agent"
	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/status"
	"github.com/limpetio/limpet/internal/upgrade"
	"github.com/limpetio/limpet/manifests"
	"github.com/limpetio/limpet/server/deploy"
	"github.com/limpetio/limpet/server/dnsendpoints"
)

// addons are the parts of the platform that are compiled in.
type addons struct {
	deploy *deploy.Controller
}

func (s *server) addAddons(sup *component.Supervisor) error {
	if err := s.addDeploy(sup); err != nil {
		return err
	}
	err := sup.Add(permissions(s.apiserver.Loopback), component.Spec{After: []string{s.addons.deploy.Name()}, Restart: true})
	if err != nil {
		return err
	}
	if s.dnsDisabled() {
		return nil // the EndpointSlices go with the Service
	}
	return s.addDNSEndpoints(sup)
}

func (s *server) addDeploy(sup *component.Supervisor) error {
	restConfig, err := clientcmd.BuildConfigFromFlags("", s.certs.Deploy.Kubeconfig)
	if err != nil {
		return err
	}
	s.addons.deploy, err = deploy.New(deploy.Options{
		Config: restConfig, Dir: s.layout.manifests(), Embedded: manifests.FS(),
		Variables: manifests.Variables(s.cfg.ClusterDNS, s.cfg.ClusterDomain), Disable: s.cfg.Disable,
		Logger: s.log.With("component", "deploy"),
	})
	if err != nil {
		return err
	}
	return sup.Add(s.addons.deploy, component.Spec{After: []string{s.apiserver.Name()}, Restart: true})
}

// dnsDisabled tells whether the cluster has no DNS of limpet's.
func (s *server) dnsDisabled() bool { return slices.Contains(s.cfg.Disable, agent.DNSAddon) }

// dnsFollowers are what must outlive the node's DNS server.
func (s *server) dnsFollowers() []string {
	if s.dnsDisabled() {
		return nil
	}
	return []string{dnsendpoints.Name}
}

func (s *server) addDNSEndpoints(sup *component.Supervisor) error {
	restConfig, err := clientcmd.BuildConfigFromFlags("", s.certs.DNSEndpoints.Kubeconfig)
	if err != nil {
		return err
	}
	controller := dnsendpoints.New(dnsendpoints.Options{RestConfig: restConfig, Logger: s.log.With("component", dnsendpoints.Name)})
	return sup.Add(controller, component.Spec{After: []string{permissionsName}, Restart: true})
}

// report is what `limpet status` prints.
func (s *server) report() status.Report {
	r := s.baseReport()
	r.Components = s.supervisor.States()
	r.Datastore = s.snapshots.report()
	r.Tunnels = tunnels(s.tunnels)
	r.Upgrade = upgrade.Status(s.cfg.DataDir)
	for _, f := range s.addons.deploy.Status() {
		r.Manifests = append(r.Manifests, status.File{Name: f.Name, State: string(f.State), Since: f.Since, Error: f.Error})
	}
	if s.node != nil {
		for _, f := range s.node.Images() {
			r.Images = append(r.Images, status.File{Name: f.File, State: string(f.State), Since: f.Since, Error: f.Error})
		}
		r.DNS = s.node.DNS()
	}
	return r
}
