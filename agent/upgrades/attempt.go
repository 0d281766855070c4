package upgrades

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/limpetio/limpet/internal/nodeupgrade"
	"github.com/limpetio/limpet/internal/upgrade"
)

const (
	// attempts is how often a release is asked for that cannot be had, and pauseMin
	// the first pause between. A download itself bears with more.
	attempts = 6
	pauseMin = 10 * time.Second
)

func (u *Upgrades) current() attempt {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.attempt
}

// abandon ends an attempt at a request that is none any more.
func (u *Upgrades) abandon(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.attempt.id == id {
		return
	}
	if u.stop != nil {
		u.stop()
	}
	u.attempt, u.stop, u.failures = attempt{}, nil, 0
}

// start begins an attempt.
func (r *run) start(ctx context.Context, request nodeupgrade.Request) {
	ctx, cancel := context.WithCancel(ctx)
	r.mu.Lock()
	r.attempt = attempt{id: request.ID(), state: running, text: "gets " + request.Version}
	r.stop = cancel
	r.mu.Unlock()
	log := r.opts.Logger.With("plan", request.Plan, "version", request.Version)
	log.Info("the server asks this node to upgrade itself", "from", r.opts.Version)
	r.tasks.Go(func() {
		defer cancel()
		err := r.opts.Machine.Start(ctx, request, r.http, r.progress(request.ID()))
		if ctx.Err() != nil {
			return
		}
		state, text := r.judge(err)
		if err != nil {
			log.Warn("this node cannot upgrade itself", "error", err, "again", state == pausing)
		}
		r.set(request.ID(), state, text)
		if state == pausing {
			r.again(ctx, request.ID())
		}
	})
}

// set is for the attempt at id only: another one may be at work meanwhile.
func (u *Upgrades) set(id string, state attemptState, text string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.attempt.id == id {
		u.attempt.state, u.attempt.text = state, text
		u.poke()
	}
}

// judge says what has become of an attempt. What another one would not change is
// refused; a network that is down, or an upgrade that is prepared by somebody
// else, passes.
func (u *Upgrades) judge(err error) (attemptState, string) {
	if err == nil {
		return begun, "is about to be replaced"
	}
	if errors.Is(err, upgrade.ErrSame) {
		return same, "this very binary is installed"
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failures++
	known := (*upgrade.Error)(nil)
	passing := !errors.As(err, &known) || known.Code == upgrade.NoSource || known.Code == upgrade.UnderWay
	switch {
	case !passing:
		return refused, err.Error()
	case u.failures >= attempts:
		return refused, fmt.Sprintf("given up after %d attempts: %v", attempts, err)
	}
	return pausing, "tries again soon: " + err.Error()
}

// again makes the attempt one that has not been made, after a pause.
func (u *Upgrades) again(ctx context.Context, id string) {
	u.mu.Lock()
	pause := u.pause << (u.failures - 1)
	u.mu.Unlock()
	select {
	case <-time.After(pause):
		u.set(id, none, "")
	case <-ctx.Done():
	}
}

// progress returns what is told of the progress of an attempt. The first words of
// it are reported at once, later ones now and then: each is a write at the server.
func (u *Upgrades) progress(id string) func(string) {
	last := time.Now()
	return func(text string) {
		if time.Since(last) < progressEvery {
			return
		}
		last = time.Now()
		u.set(id, running, text)
	}
}
