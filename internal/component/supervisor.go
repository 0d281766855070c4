package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/limpetio/limpet/internal/restart"
)

// Spec says how the supervisor treats a component.
type Spec struct {
	// After names the components that must be ready first. They are also
	// stopped later than this one.
	After []string
	// Restart runs the component again after it failed, with back-off. Most
	// upstream parts register things process-wide and cannot run twice: their
	// failure ends the process, and the init system starts it anew. So does
	// *restart.Needed, whatever stands here.
	Restart bool
}

// Options of a Supervisor.
type Options struct {
	Logger *slog.Logger
	// StopTimeout bounds the whole orderly stop; default 25 s, so that the
	// init system's 30 s are not reached.
	StopTimeout time.Duration
	// Backoff is the first pause before a restart; it doubles up to
	// BackoffMax. Defaults 1 s and 1 min.
	Backoff, BackoffMax time.Duration
	// Observe is called, one call at a time, after every change of phase.
	Observe func(State)
	// Started is the origin of State.ReadyAfter; default: the call of New.
	Started time.Time
}

// Supervisor runs components. Create it with New, add components in an order
// in which dependencies come first, then call Run once.
type Supervisor struct {
	opts  Options
	items []*item

	mu        sync.Mutex // guards the State of every item
	observeMu sync.Mutex // serialises Observe
}

// item is a component with its record and the channels its neighbours wait on.
type item struct {
	Component
	spec    Spec
	after   []*item
	above   []*item // all that it rests on, directly or not: a one-shot between them is done early
	state   State
	ready   chan struct{} // closed at the first ready
	stopped chan struct{} // closed when Run will not be called again
	cancel  context.CancelFunc
}

// New returns a supervisor without components.
func New(opts Options) *Supervisor {
	if opts.StopTimeout == 0 {
		opts.StopTimeout = 25 * time.Second
	}
	if opts.Backoff == 0 {
		opts.Backoff = time.Second
	}
	if opts.BackoffMax == 0 {
		opts.BackoffMax = time.Minute
	}
	if opts.Started.IsZero() {
		opts.Started = time.Now()
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	if opts.Observe == nil {
		opts.Observe = func(State) {}
	}
	return &Supervisor{opts: opts}
}

// Add takes in a component. Its dependencies must have been added before,
// which makes cycles impossible.
func (s *Supervisor) Add(c Component, spec Spec) error {
	it := &item{
		Component: c, spec: spec,
		state: State{Name: c.Name(), Phase: Waiting, Since: time.Now()},
		ready: make(chan struct{}), stopped: make(chan struct{}),
	}
	for _, other := range s.items {
		if other.Name() == c.Name() {
			return fmt.Errorf("component %s was added twice", c.Name())
		}
	}
	for _, name := range spec.After {
		i := slices.IndexFunc(s.items, func(o *item) bool { return o.Name() == name })
		if i < 0 {
			return fmt.Errorf("component %s comes after %s, which has not been added", c.Name(), name)
		}
		it.after = append(it.after, s.items[i])
	}
	it.above = slices.Clone(it.after)
	for _, dep := range it.after {
		it.above = append(it.above, dep.above...)
	}
	s.items = append(s.items, it)
	return nil
}

// States returns the record of every component in the order they were added.
func (s *Supervisor) States() []State {
	s.mu.Lock()
	defer s.mu.Unlock()
	states := make([]State, len(s.items))
	for i, it := range s.items {
		states[i] = it.state
		states[i].History = slices.Clone(it.state.History)
	}
	return states
}

// Run starts every component and blocks until ctx is done, a component that
// cannot be restarted fails, or one fails with *restart.Needed; then it stops all in reverse order. The error
// names the component that failed, or those that did not stop in time.
func (s *Supervisor) Run(ctx context.Context) error {
	failed := make(chan error, len(s.items))
	for _, it := range s.items {
		// The stop is ordered by us: a component's context must not end with ctx.
		runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		it.cancel = cancel
		go s.supervise(runCtx, it, failed)
	}
	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
	}
	return errors.Join(cause, s.stop())
}

// supervise brings one component through its life.
func (s *Supervisor) supervise(ctx context.Context, it *item, failed chan<- error) {
	defer close(it.stopped)
	for _, dep := range it.after {
		select {
		case <-dep.ready:
		case <-ctx.Done():
			s.set(it, Stopped, "")
			return
		}
	}
	backoff := s.opts.Backoff
	for {
		begin := time.Now()
		err := s.runOnce(ctx, it)
		switch {
		case ctx.Err() != nil:
			s.set(it, Stopped, reason(err))
			return
		case err == nil && s.phase(it) == Ready:
			s.set(it, Done, "")
			return
		case err == nil:
			err = errors.New("ended before it was ready")
		}
		if needed := (*restart.Needed)(nil); !it.spec.Restart || errors.As(err, &needed) {
			s.set(it, Failed, err.Error())
			failed <- fmt.Errorf("%s: %w", it.Name(), err)
			return
		}
		if time.Since(begin) > s.opts.BackoffMax {
			backoff = s.opts.Backoff
		}
		s.set(it, Restarting, err.Error())
		if !sleep(ctx, jitter(backoff)) {
			s.set(it, Stopped, "")
			return
		}
		backoff = min(2*backoff, s.opts.BackoffMax)
	}
}

// runOnce calls Run, turning a panic on the component's goroutine into an error.
func (s *Supervisor) runOnce(ctx context.Context, it *item) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	begin := time.Now()
	s.set(it, Starting, "")
	var once sync.Once
	return it.Run(ctx, func() {
		once.Do(func() {
			s.mu.Lock()
			it.state.Took = time.Since(begin)
			if it.state.ReadyAfter == 0 {
				it.state.ReadyAfter = time.Since(s.opts.Started)
			}
			s.mu.Unlock()
			s.set(it, Ready, "")
			select {
			case <-it.ready:
			default:
				close(it.ready)
			}
		})
	})
}

// stop ends the components, each when all that came after it have ended.
func (s *Supervisor) stop() error {
	deadline := time.Now().Add(s.opts.StopTimeout)
	var wg sync.WaitGroup
	for i, it := range s.items {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for _, later := range s.items[i+1:] {
				if slices.Contains(later.above, it) {
					waitUntil(later.stopped, deadline)
				}
			}
			select {
			case <-it.stopped:
			default:
				s.set(it, Stopping, "")
			}
			it.cancel()
			waitUntil(it.stopped, deadline)
		}()
	}
	wg.Wait()
	var late []string
	for _, it := range s.items {
		select {
		case <-it.stopped:
		default:
			late = append(late, it.Name())
		}
	}
	if len(late) > 0 {
		return fmt.Errorf("not stopped within %s: %s", s.opts.StopTimeout, strings.Join(late, ", "))
	}
	return nil
}

func (s *Supervisor) phase(it *item) Phase {
	s.mu.Lock()
	defer s.mu.Unlock()
	return it.state.Phase
}

// set records a change of phase and tells the observer. Once a component is
// being stopped only Stopped and Failed may follow.
func (s *Supervisor) set(it *item, phase Phase, why string) {
	s.observeMu.Lock()
	defer s.observeMu.Unlock()
	s.mu.Lock()
	if it.state.Phase == Stopped || (it.state.Phase == Stopping && phase != Stopped && phase != Failed) {
		s.mu.Unlock()
		return
	}
	if phase == Restarting {
		it.state.Restarts++
	}
	now := time.Now()
	it.state.Phase, it.state.Since, it.state.Reason = phase, now, why
	it.state.History = append(it.state.History, Transition{Phase: phase, At: now, Reason: why})
	if n := len(it.state.History); n > historyLimit {
		it.state.History = slices.Delete(it.state.History, 0, n-historyLimit)
	}
	state := it.state
	state.History = slices.Clone(it.state.History)
	s.mu.Unlock()
	s.opts.Observe(state)
}

func reason(err error) string {
	if err == nil || errors.Is(err, context.Canceled) {
		return ""
	}
	return err.Error()
}

func waitUntil(ch <-chan struct{}, deadline time.Time) {
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-ch:
	case <-t.C:
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// jitter spreads d by ±20 %, so that parts that failed together do not return together.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}
