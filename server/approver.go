package server

import (
	"fmt"
	"slices"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/server/approve"
)

// addApprover adds what decides about the certificates of nodes.
func (s *server) addApprover(sup *component.Supervisor) error {
	restConfig, err := clientcmd.BuildConfigFromFlags("", s.certs.Approver.Kubeconfig)
	if err != nil {
		return fmt.Errorf("kubeconfig of the approver: %w", err)
	}
	controller, err := approve.New(approve.Options{
		Config: restConfig, Policy: approvalPolicy(s.cfg), Logger: s.log.With("component", approve.Name),
	})
	if err != nil {
		return err
	}
	return sup.Add(controller, component.Spec{After: []string{permissionsName}, Restart: true})
}

// approvalPolicy keeps from nodes what the API server's certificate names, and
// the ranges of pods and Services.
func approvalPolicy(cfg config.Server) approve.Policy {
	own := apiserverLeaf(cfg)
	p := approve.Policy{
		Names: own.DNSNames, Addrs: own.IPs, Domain: cfg.ClusterDomain,
		Ranges: slices.Concat(cfg.ClusterCIDR, cfg.ServiceCIDR),
	}
	if !cfg.DisableAgent {
		p.OwnNode = cfg.NodeName
	}
	return p
}
