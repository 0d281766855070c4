package server

import (
	"path/filepath"
	"slices"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/limpetio/limpet/agent"
	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/dns"
	"github.com/limpetio/limpet/internal/status"
	"github.com/limpetio/limpet/manifests"
	"github.com/limpetio/limpet/server/deploy"
)

// addons are the parts of the platform that are compiled in.
type addons struct {
	deploy *deploy.Controller
	dns    *dns.Server // nil when disabled, or without a node to listen on
}

// dnsAddon is the name by which --disable knows the DNS server.
const dnsAddon = "coredns"

func (s *server) addAddons(sup *component.Supervisor) error {
	if err := s.addDeploy(sup); err != nil {
		return err
	}
	err := sup.Add(permissions(s.apiserver.Loopback), component.Spec{After: []string{s.addons.deploy.Name()}, Restart: true})
	if err != nil {
		return err
	}
	if s.node == nil || slices.Contains(s.cfg.Disable, dnsAddon) {
		return nil
	}
	return s.addDNS(sup)
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

func (s *server) addDNS(sup *component.Supervisor) error {
	restConfig, err := clientcmd.BuildConfigFromFlags("", s.certs.DNS.Kubeconfig)
	if err != nil {
		return err
	}
	s.addons.dns, err = dns.New(dns.Options{
		Kubeconfig: s.certs.DNS.Kubeconfig, RestConfig: restConfig,
		ListenAddrs: s.cfg.NodeIP, ClusterDNS: s.cfg.ClusterDNS, ClusterDomain: s.cfg.ClusterDomain,
		ResolvConf: s.cfg.ResolvConf, RunDir: filepath.Join(agent.RunDir, "dns"),
		AllowFrom: slices.Concat(s.cfg.ClusterCIDR, s.cfg.ServiceCIDR),
		Publish:   true, NodeName: s.cfg.NodeName,
		Logger: s.log.With("component", "dns"),
	})
	if err != nil {
		return err
	}
	return sup.Add(s.addons.dns, component.Spec{After: []string{permissionsName}, Restart: true})
}

// report is what `limpet status` prints.
func (s *server) report() status.Report {
	r := s.baseReport()
	r.Components = s.supervisor.States()
	r.Datastore = s.snapshots.report()
	for _, f := range s.addons.deploy.Status() {
		r.Manifests = append(r.Manifests, status.File{Name: f.Name, State: string(f.State), Since: f.Since, Error: f.Error})
	}
	if s.node != nil {
		for _, f := range s.node.Images() {
			r.Images = append(r.Images, status.File{Name: f.File, State: string(f.State), Since: f.Since, Error: f.Error})
		}
	}
	if s.addons.dns != nil {
		d := s.addons.dns.Status()
		r.DNS = &status.DNS{Upstreams: d.Upstreams, Error: d.Error}
	}
	return r
}
