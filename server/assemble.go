package server

import (
	"github.com/limpetio/limpet/agent"
	"github.com/limpetio/limpet/agent/network"
	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/created"
	"github.com/limpetio/limpet/internal/machine"
	"github.com/limpetio/limpet/internal/reserve"
	"github.com/limpetio/limpet/internal/status"
	"github.com/limpetio/limpet/internal/upgrade"
)

// assemble says what runs after what; docs/how-it-works.md says why. What is
// added before announcer is what limpet is not up without.
func (s *server) assemble(announcer, settler component.Component) error {
	a := machine.Assembly{Supervisor: s.supervisor}
	api := s.apiserver.Name()
	a.Add(&status.Server{Path: status.Socket, Report: s.report, TakeSnapshot: s.snapshots}, component.Spec{Restart: true})
	a.Add(upgrade.Component(), component.Spec{})
	if s.addressFound {
		a.Add(&network.AddressWatch{NodeIP: s.cfg.NodeIP, Interface: s.cfg.FlannelIface, Logger: s.log.With("component", "node-address")}, component.Spec{})
	}
	a.Add(s.datastore, component.Spec{})
	a.Add(s.snapshots, component.Spec{After: []string{s.datastore.Name()}, Restart: true})
	a.Add(s.apiserver, component.Spec{After: []string{s.datastore.Name()}})
	a.Add(s.tunnels, component.Spec{After: []string{api}})
	controllersAfter := api
	if s.node != nil {
		a.Add(s.registration(), component.Spec{After: []string{api}, Restart: true})
		controllersAfter = agent.RegistrationName
	}
	if s.controllerManager != nil {
		a.Add(s.controllerManager, component.Spec{After: []string{controllersAfter}})
	}
	if s.scheduler != nil {
		a.Add(s.scheduler, component.Spec{After: []string{api}})
	}
	a.Do(func() error { return s.addAddons(s.supervisor) })
	a.Do(func() error { return s.addJoin(s.supervisor) })
	a.Do(func() error { return s.addApprover(s.supervisor) })
	a.Do(func() error { return s.addUpgrades(s.supervisor) })
	if s.node != nil {
		a.Do(func() error {
			return s.node.Add(s.supervisor, api, agent.RegistrationName, permissionsName)
		})
	}
	a.Do(func() error { return s.supervisor.Add(announcer, component.Spec{After: a.Added()}) })
	if s.node != nil {
		a.Add(s.node.ImageArrivals(), component.Spec{After: []string{agent.RegistrationName}, Restart: true})
	}
	a.Add(recoveryReport(s.datastore, s.apiserver.Loopback), component.Spec{After: []string{announcer.Name()}, Restart: true})
	a.Add(settler, component.Spec{After: []string{announcer.Name()}})
	a.Add(created.Settler(s.cfg.DataDir, s.log), component.Spec{After: []string{announcer.Name()}})
	a.Add(machine.PayloadKeeper(s.cfg.DataDir, s.log), component.Spec{After: []string{announcer.Name()}})
	a.Add(reserve.Keeper(s.cfg.DataDir, s.log), component.Spec{After: []string{announcer.Name()}})
	return a.Err
}
