// Package component runs the parts of the process: it starts them in the order
// of their dependencies, waits until each is ready, restarts those that can be
// restarted, stops them in reverse order, and keeps the record from which
// `limpet status` and the start-up timeline are printed.
//
//	             dependencies ready          ready()
//	waiting ─────────────────▶ starting ─────────────▶ ready ──▶ done   (Run returned nil by itself)
//	   │                         ▲  │                   │
//	   │             back-off    │  │ error             │ error
//	   │                         │  ▼                   ▼
//	   │                       restarting ◀─────────────┤            (Restart: true)
//	   │                                                ▼
//	   └────────────▶ stopped ◀── stopping ◀──────── failed          (Restart: false: the process ends)
package component

import (
	"context"
	"time"
)

// Component is one long-running part of the process.
type Component interface {
	// Name identifies the component in logs, status and dependencies.
	Name() string
	// Run blocks until ctx is done (then it returns nil after an orderly stop)
	// or the component fails (error). It calls ready once, when others may
	// rely on it. Returning nil after ready, with ctx still alive, means that
	// the work of a one-shot component is done.
	Run(ctx context.Context, ready func()) error
}

// Func makes a Component of a function.
func Func(name string, run func(ctx context.Context, ready func()) error) Component {
	return funcComponent{name: name, run: run}
}

type funcComponent struct {
	name string
	run  func(ctx context.Context, ready func()) error
}

func (f funcComponent) Name() string                                { return f.name }
func (f funcComponent) Run(ctx context.Context, ready func()) error { return f.run(ctx, ready) }

// Phase is where a component is in its life.
type Phase string

// The phases of a component; see the package comment for how they follow one another.
const (
	Waiting    Phase = "waiting"
	Starting   Phase = "starting"
	Ready      Phase = "ready"
	Done       Phase = "done"
	Restarting Phase = "restarting"
	Failed     Phase = "failed"
	Stopping   Phase = "stopping"
	Stopped    Phase = "stopped"
)

// Transition is one change of phase.
type Transition struct {
	Phase Phase     `json:"phase"`
	At    time.Time `json:"at"`
	// Reason is the error or the awaited dependency, empty if there is nothing to say.
	Reason string `json:"reason,omitempty"`
}

// State is the record of one component.
type State struct {
	Name  string    `json:"name"`
	Phase Phase     `json:"phase"`
	Since time.Time `json:"since"`
	// Took is the time from the start of Run to ready; zero while not ready.
	Took time.Duration `json:"took,omitempty"`
	// ReadyAfter is the time from the start of the supervisor to ready.
	ReadyAfter time.Duration `json:"readyAfter,omitempty"`
	Restarts   int           `json:"restarts"`
	// Reason is why the component is in a phase it should not stay in.
	Reason string `json:"reason,omitempty"`
	// History holds the last transitions, oldest first, at most 16.
	History []Transition `json:"history,omitempty"`
}

// Healthy reports whether nothing is wrong with the component.
func (s State) Healthy() bool { return s.Phase == Ready || s.Phase == Done }

const historyLimit = 16
