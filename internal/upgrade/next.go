package upgrade

import (
	"fmt"
	"slices"
)

// maxAttempts is how often the guard is started again on the way forward before
// it goes back: a version that brings the machine down comes no further.
const maxAttempts = 3

// Event is what has become of the step that a journal is at.
type Event struct {
	Kind EventKind
	// Reason is why a step failed, or the guard began anew.
	Reason string
	// Snapshot is the path of what the first step has taken; empty if there is no datastore.
	Snapshot string
}

// EventKind is one of three.
type EventKind int

// The kinds of events.
const (
	Done    EventKind = iota // the step succeeded; for the last step: limpet is healthy
	Failed                   // it did not
	Resumed                  // the guard was started again
)

// Next is the journal after an event. It does no I/O.
//
// On the way back nothing gives up: a step that fails is tried again, except
// that a previous version which does not become healthy ends the operation, too.
func (j Journal) Next(e Event) Journal {
	if j.Final() {
		return j
	}
	switch e.Kind {
	case Resumed:
		return j.resumed()
	case Failed:
		return j.failed(e.Reason)
	}
	if j.Step == StepSnapshot {
		j.Snapshot = e.Snapshot
	}
	return j.advance()
}

// resumed: the step is repeated, unless that happens too often. Where limpet was
// stopped it has to be stopped again: the machine may have booted.
func (j Journal) resumed() Journal {
	if j.Offline() {
		j.Step = StepStop
	}
	if j.Phase == Returning {
		return j
	}
	j.Attempts++
	if j.Attempts <= maxAttempts {
		return j
	}
	return j.failed(fmt.Sprintf("it was interrupted %d times, by power cuts or crashes of the machine", j.Attempts))
}

func (j Journal) failed(reason string) Journal {
	switch {
	case j.Phase == Returning && j.Step == StepWatch:
		j.Unwell = reason
		return j.end(RolledBack)
	case j.Phase == Returning:
		j.Unwell = reason
		return j // again
	case j.Phase == Staged || j.Step == StepSnapshot:
		j.Reason = reason
		return j.end(Abandoned)
	}
	j.Reason, j.Phase, j.Step = reason, Returning, ""
	return j.advance()
}

// advance goes to the next step of the present way.
func (j Journal) advance() Journal {
	j.Unwell = ""
	steps := j.steps()
	next := slices.Index(steps, j.Step) + 1 // without a step: the first
	if next == len(steps) {
		if j.Phase == Returning {
			return j.end(RolledBack)
		}
		return j.end(Confirmed)
	}
	j.Step = steps[next]
	if j.Phase == Returning {
		return j
	}
	j.Phase = Switching
	if j.Step == StepWatch {
		j.Phase = Watching
	}
	if j.Step == StepInstall {
		j.Touched = true
	}
	return j
}

func (j Journal) end(p Phase) Journal {
	j.Phase, j.Step = p, ""
	return j
}

// steps are those of the way that the journal is on. Data is only replaced
// while limpet is stopped; otherwise a restart does, which is shorter. The
// binary comes before the data: should limpet be started in between, at a boot,
// it is the one that belongs to the data that is being put in place, and waits
// until it is (see Journal.Offline).
func (j Journal) steps() []Step {
	restores := j.Restore != ""
	var list []Step
	if j.Phase == Returning {
		restores = j.Touched && j.Snapshot != ""
	} else if j.Database != "" {
		list = append(list, StepSnapshot)
	}
	if restores {
		return append(list, StepStop, StepInstall, StepRestore, StepStart, StepWatch)
	}
	return append(list, StepInstall, StepStart, StepWatch)
}

// target is the binary of the way that the journal is on, and data the snapshot
// that belongs to it, if it is to be restored.
func (j Journal) target() (b Build, data string) {
	if j.Phase == Returning {
		return j.From, j.Snapshot
	}
	return j.To, j.Restore
}

// Offline reports whether the guard is about to replace the data: whoever starts
// limpet in these moments (a boot after a power cut) must wait.
func (j Journal) Offline() bool {
	return j.Step == StepStop || j.Step == StepRestore || j.Step == StepInstall && slices.Contains(j.steps(), StepRestore)
}

// validPosition: phase and step go together.
func (j Journal) validPosition() error {
	ok := false
	switch j.Phase {
	case Staged, Confirmed, RolledBack, Abandoned:
		ok = j.Step == ""
	case Watching:
		ok = j.Step == StepWatch
	case Switching:
		ok = j.Step != StepWatch && slices.Contains(j.steps(), j.Step)
	case Returning:
		ok = slices.Contains(j.steps(), j.Step)
	}
	if !ok {
		return fmt.Errorf("there is no step %q in phase %q", j.Step, j.Phase)
	}
	return nil
}
