package server

import (
	"context"
	"fmt"
	"os"

	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/payload"
	"github.com/limpetio/limpet/internal/sdnotify"
	"github.com/limpetio/limpet/internal/status"
)

// assemble says what runs after what; docs/how-it-works.md says why. What is
// added before announcer is what limpet is not up without.
func (s *server) assemble(announcer, settler component.Component) error {
	a := assembly{sup: s.supervisor}
	api := s.apiserver.Name()
	a.add(&status.Server{Path: status.Socket, Report: s.report, TakeSnapshot: s.snapshots}, component.Spec{Restart: true})
	a.add(s.datastore, component.Spec{})
	a.add(s.snapshots, component.Spec{After: []string{s.datastore.Name()}, Restart: true})
	a.add(s.apiserver, component.Spec{After: []string{s.datastore.Name()}})
	controllersAfter := api
	if s.node != nil {
		a.add(&nodeRegistration{config: s.cfg, taints: s.taints(), loopback: s.apiserver.Loopback},
			component.Spec{After: []string{api}, Restart: true})
		controllersAfter = nodeRegistrationName
	}
	if s.controllerManager != nil {
		a.add(s.controllerManager, component.Spec{After: []string{controllersAfter}})
	}
	if s.scheduler != nil {
		a.add(s.scheduler, component.Spec{After: []string{api}})
	}
	a.do(func() error { return s.addAddons(s.supervisor) })
	if s.node != nil {
		a.do(func() error {
			return s.node.Add(s.supervisor, api, nodeRegistrationName, permissionsName)
		})
	}
	a.do(func() error { return s.supervisor.Add(announcer, component.Spec{After: s.added()}) })
	if s.node != nil {
		a.add(s.imageArrivals, component.Spec{After: []string{permissionsName}, Restart: true})
	}
	a.add(recoveryReport(s.datastore, s.apiserver.Loopback), component.Spec{After: []string{announcer.Name()}, Restart: true})
	a.add(settler, component.Spec{After: []string{announcer.Name()}})
	a.add(s.payloadKeeper(), component.Spec{After: []string{announcer.Name()}})
	return a.err
}

// assembly adds components until the first error.
type assembly struct {
	sup *component.Supervisor
	err error
}

func (a *assembly) add(c component.Component, spec component.Spec) {
	a.do(func() error { return a.sup.Add(c, spec) })
}

func (a *assembly) do(step func() error) {
	if a.err == nil {
		a.err = step()
	}
}

// added names the components that have been added so far.
func (s *server) added() []string {
	var names []string
	for _, state := range s.supervisor.States() {
		names = append(names, state.Name)
	}
	return names
}

// announcer tells the init system, and a person at the terminal, that all is up.
func (s *server) announcer(n sdnotify.Notifier) component.Component {
	return component.Func("limpet", func(ctx context.Context, ready func()) error {
		n.Ready()
		n.Status("running; `limpet status` tells more")
		ready()
		if logging.Terminal(os.Stderr) {
			fmt.Fprintf(os.Stderr, "\nlimpet is up. Try:  limpet kubectl get nodes\n\n")
		}
		<-ctx.Done()
		return nil
	})
}

// payloadKeeper looks, once all is up, for what the quick check at start cannot
// see: bits that the flash has flipped in the helper programs. And it removes
// those of older versions that no container needs any more.
func (s *server) payloadKeeper() component.Component {
	log := s.log.With("component", "payload")
	return component.Func("payload", func(ctx context.Context, ready func()) error {
		ready()
		dir, err := payload.Repair(ctx, s.cfg.DataDir)
		if err != nil {
			log.Warn("the helper programs could not be checked", "error", err)
		} else if dir.Damage != nil {
			log.Warn("the helper programs on disk were damaged and have been replaced", "damage", dir.Damage)
		}
		removed, err := payload.Collect(ctx, s.cfg.DataDir)
		if err != nil {
			log.Warn("helper programs of older versions could not be removed", "error", err)
		}
		if len(removed) > 0 {
			log.Info("removed helper programs of older versions", "removed", removed)
		}
		return nil
	})
}
