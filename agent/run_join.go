package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/limpetio/limpet/agent/join"
	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/nodeid"
	"github.com/limpetio/limpet/internal/status"
	"github.com/limpetio/limpet/internal/token"
	"github.com/limpetio/limpet/internal/version"
)

const joinName = "join"

// member returns what a server grants; nil if this machine has joined before.
// Either way the cluster's settings are known afterwards. Nothing else of the
// machine runs while it waits for a server, except that `limpet status` is
// answered: whether it may change anything here is for the server to say.
func (a *agent) member(ctx context.Context) (*join.Grant, error) {
	text, tokenErr := a.token()
	o := join.Options{
		Server: a.cfg.ServerURL, Token: text, NodeName: a.cfg.NodeName, Files: a.files(), Identity: a.identity,
		KubernetesVersion: version.KubernetesVersion, Logger: a.log.With("component", joinName),
	}
	settings, err := join.Load(o)
	if err == nil {
		a.settings = settings
		return nil, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		o.Logger.Warn("this node has to join again", "reason", err)
	}
	if tokenErr != nil {
		return nil, tokenErr
	}
	if a.identityFresh {
		o.KeepIdentity = a.keepIdentity
		o.DropIdentity = a.dropIdentity
	}
	grant, err := a.await(ctx, o)
	if err != nil {
		return nil, err
	}
	if grant != nil {
		a.settings = grant.Settings
	}
	return grant, nil
}

// await joins, under a supervisor of its own. It returns nothing when ctx ends.
func (a *agent) await(ctx context.Context, o join.Options) (*join.Grant, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		grant   *join.Grant
		refused error
		waiting sayings
	)
	o.Waiting = func(what string) {
		waiting.set(what)
		a.notifier.Status(what)
	}
	sup := component.New(component.Options{Logger: a.log, Started: a.started})
	report := func() status.Report {
		r := a.baseReport(sup.States())
		for i := range r.Components {
			if r.Components[i].Name == joinName {
				r.Components[i].Reason = waiting.get()
			}
		}
		return r
	}
	if err := sup.Add(&status.Server{Path: status.Socket, Report: report}, component.Spec{Restart: true}); err != nil {
		return nil, err
	}
	err := sup.Add(component.Func(joinName, func(ctx context.Context, ready func()) error {
		defer cancel() // that is all there was to do
		grant, refused = join.Request(ctx, o)
		ready()
		return nil
	}), component.Spec{})
	if err != nil {
		return nil, err
	}
	err = sup.Run(ctx)
	if refused != nil {
		if errors.Is(refused, context.Canceled) {
			return nil, err // it was told to end
		}
		return nil, refused
	}
	return grant, err
}

// sayings is the last thing that was said.
type sayings struct {
	mu   sync.Mutex
	text string
}

func (s *sayings) set(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = text
}

func (s *sayings) get() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text
}

func (a *agent) keepIdentity() error {
	if !a.identityFresh {
		return nil
	}
	return a.identity.Save(nodeid.DefaultFile)
}

func (a *agent) dropIdentity() error {
	if err := os.Remove(nodeid.DefaultFile); err != nil {
		return fmt.Errorf("remove the identity key of a node that did not join: %w", err)
	}
	_ = os.Remove(filepath.Dir(nodeid.DefaultFile)) // unless there is more in it
	return nil
}

// token is the configured token. The error is a *join.Error; it matters only to
// a machine that has to join.
func (a *agent) token() (string, error) {
	switch {
	case a.cfg.TokenFile != "":
		t, err := token.ReadFile(a.cfg.TokenFile)
		if err != nil {
			return "", &join.Error{Code: join.BadToken, What: "the token cannot be used", Err: err, Do: join.TokenAdvice}
		}
		return t.String(), nil
	case a.cfg.Token != "":
		return a.cfg.Token, nil
	}
	return "", &join.Error{Code: join.BadToken, What: "a token is needed to join: give --token-file or --token", Do: join.TokenAdvice}
}
