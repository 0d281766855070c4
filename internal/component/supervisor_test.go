package component

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/restart"
)

// journal records what happened in which order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, line)
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.lines)
}

// steady is a component that is ready at once and runs until it is stopped.
func (j *journal) steady(name string) Component {
	return Func(name, func(ctx context.Context, ready func()) error {
		j.add("start " + name)
		ready()
		<-ctx.Done()
		j.add("stop " + name)
		return nil
	})
}

func mustAdd(t *testing.T, s *Supervisor, c Component, spec Spec) {
	t.Helper()
	if err := s.Add(c, spec); err != nil {
		t.Fatal(err)
	}
}

// watch returns an observer and a function that waits for a component's phase.
func watch(t *testing.T) (func(State), func(name string, phase Phase) State) {
	t.Helper()
	states := make(chan State, 100)
	return func(s State) { states <- s }, func(name string, phase Phase) State {
		t.Helper()
		timeout := time.After(10 * time.Second)
		for {
			select {
			case s := <-states:
				if s.Name == name && s.Phase == phase {
					return s
				}
			case <-timeout:
				t.Fatalf("%s did not become %s", name, phase)
			}
		}
	}
}

func TestStartsInOrderAndStopsInReverse(t *testing.T) {
	t.Parallel()
	var j journal
	observe, await := watch(t)
	s := New(Options{Observe: observe})
	mustAdd(t, s, j.steady("a"), Spec{})
	mustAdd(t, s, j.steady("b"), Spec{After: []string{"a"}})
	mustAdd(t, s, j.steady("c"), Spec{After: []string{"a", "b"}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	await("c", Ready)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := []string{"start a", "start b", "start c", "stop c", "stop b", "stop a"}
	if got := j.all(); !slices.Equal(got, want) {
		t.Errorf("order was %q, want %q", got, want)
	}
}

// What a one-shot stands between is stopped in order, too.
func TestStopOrderGoesThroughOneShots(t *testing.T) {
	t.Parallel()
	var j journal
	observe, await := watch(t)
	s := New(Options{Observe: observe})
	mustAdd(t, s, j.steady("a"), Spec{})
	mustAdd(t, s, Func("once", func(_ context.Context, ready func()) error { ready(); return nil }), Spec{After: []string{"a"}})
	slow := make(chan struct{})
	mustAdd(t, s, Func("c", func(ctx context.Context, ready func()) error {
		ready()
		<-ctx.Done()
		<-slow
		j.add("stop c")
		return nil
	}), Spec{After: []string{"once"}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	await("c", Ready)
	cancel()
	await("c", Stopping)
	close(slow)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got, want := j.all(), []string{"start a", "stop c", "stop a"}; !slices.Equal(got, want) {
		t.Errorf("order was %q, want %q", got, want)
	}
}

func TestAddRefusesUnknownDependencyAndTwins(t *testing.T) {
	t.Parallel()
	var j journal
	s := New(Options{})
	if err := s.Add(j.steady("b"), Spec{After: []string{"a"}}); err == nil || !strings.Contains(err.Error(), "comes after a") {
		t.Errorf("unknown dependency: %v", err)
	}
	mustAdd(t, s, j.steady("a"), Spec{})
	if err := s.Add(j.steady("a"), Spec{}); err == nil {
		t.Error("a second component of the same name was taken")
	}
}

func TestFailureEndsTheRunAndNamesTheComponent(t *testing.T) {
	t.Parallel()
	var j journal
	s := New(Options{})
	mustAdd(t, s, j.steady("a"), Spec{})
	mustAdd(t, s, Func("b", func(context.Context, func()) error { return errors.New("no disk") }), Spec{After: []string{"a"}})
	mustAdd(t, s, j.steady("c"), Spec{After: []string{"b"}})
	err := s.Run(context.Background())
	if err == nil || err.Error() != "b: no disk" {
		t.Errorf("Run = %v", err)
	}
	if got, want := j.all(), []string{"start a", "stop a"}; !slices.Equal(got, want) {
		t.Errorf("order was %q, want %q", got, want)
	}
}

func TestPanicBecomesAnError(t *testing.T) {
	t.Parallel()
	s := New(Options{})
	mustAdd(t, s, Func("a", func(context.Context, func()) error { panic("oops") }), Spec{})
	if err := s.Run(context.Background()); err == nil || !strings.HasPrefix(err.Error(), "a: panic: oops") {
		t.Errorf("Run = %v", err)
	}
}

func TestRestartsWithBackoff(t *testing.T) {
	t.Parallel()
	observe, await := watch(t)
	s := New(Options{Observe: observe, Backoff: time.Millisecond, BackoffMax: 4 * time.Millisecond})
	runs := 0
	mustAdd(t, s, Func("a", func(ctx context.Context, ready func()) error {
		if runs++; runs < 4 {
			return errors.New("not yet")
		}
		ready()
		<-ctx.Done()
		return nil
	}), Spec{Restart: true})
	var j journal
	mustAdd(t, s, j.steady("b"), Spec{After: []string{"a"}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	await("b", Ready)
	if a := s.States()[0]; a.Restarts != 3 || a.Phase != Ready || a.Reason != "" {
		t.Errorf("state of a is %+v", a)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestOneShotIsDoneAndItsDependentsGoOn(t *testing.T) {
	t.Parallel()
	var j journal
	observe, await := watch(t)
	s := New(Options{Observe: observe})
	mustAdd(t, s, Func("once", func(_ context.Context, ready func()) error { ready(); return nil }), Spec{})
	mustAdd(t, s, j.steady("a"), Spec{After: []string{"once"}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	await("a", Ready)
	if once := s.States()[0]; !once.Healthy() {
		t.Errorf("state of once is %+v", once)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestStopHasADeadlineAndNamesTheLate(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	defer close(release)
	observe, await := watch(t)
	s := New(Options{Observe: observe, StopTimeout: 20 * time.Millisecond})
	mustAdd(t, s, Func("deaf", func(_ context.Context, ready func()) error { ready(); <-release; return nil }), Spec{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	await("deaf", Ready)
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "not stopped within 20ms: deaf") {
		t.Errorf("Run = %v", err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	s := New(Options{})
	var j journal
	mustAdd(t, s, j.steady("a"), Spec{})
	for range 3 * historyLimit {
		s.set(s.items[0], Restarting, "again")
	}
	if n := len(s.States()[0].History); n != historyLimit {
		t.Errorf("history holds %d transitions, want %d", n, historyLimit)
	}
}

// TestRestartNeeded: what a restart of the component cannot mend ends the run.
func TestRestartNeeded(t *testing.T) {
	t.Parallel()
	s := New(Options{Logger: slog.New(slog.DiscardHandler)})
	err := s.Add(Func("a", func(context.Context, func()) error {
		return fmt.Errorf("cannot go on: %w", &restart.Needed{Reason: "a test"})
	}), Spec{Restart: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var needed *restart.Needed
	if err := s.Run(ctx); !errors.As(err, &needed) || ctx.Err() != nil {
		t.Errorf("the run ended with %v", err)
	}
}
