package standin

import (
	"time"

	"github.com/limpetio/limpet/agent/standin/journal"
)

// pending are changes that wait to be written together. It decides what is
// written when and does no I/O.
type pending struct {
	changes map[string]waiting
	// stored reports whether a key has this value on disk; nil: whether it is absent.
	stored func(key string, value []byte) bool
}

type waiting struct {
	value []byte
	due   time.Time
	wait  time.Duration
}

// patience is how long a change may wait. What decides whether a pod starts is
// written soon; the addresses behind Services and those of nodes change in bursts and
// often change back. What is new and not stored at all waits shortly in any case.
func patience(resource string, isNew bool) time.Duration {
	switch resource {
	case endpointSlices, nodes, services, namespaces, serviceCIDRs:
		if isNew {
			return 5 * time.Second
		}
		return 30 * time.Second
	default:
		return time.Second
	}
}

// set notes the newest value of a key; nil deletes it. A change that was waiting
// already keeps its time; one that turns out to be none is forgotten.
func (p *pending) set(key string, value []byte, now time.Time, wait time.Duration) {
	if p.stored(key, value) {
		delete(p.changes, key)
		return
	}
	w, ok := p.changes[key]
	if !ok {
		w.due, w.wait = now.Add(wait), wait
	}
	w.value = value
	p.changes[key] = w
}

// next is when the first change is due; false if none waits.
func (p *pending) next() (time.Time, bool) {
	var first time.Time
	for _, w := range p.changes {
		if first.IsZero() || w.due.Before(first) {
			first = w.due
		}
	}
	return first, !first.IsZero()
}

// due lists the changes whose time has come; all lists every one.
func (p *pending) due(now time.Time, all bool) []journal.Change {
	var out []journal.Change
	for key, w := range p.changes {
		if all || !w.due.After(now) {
			out = append(out, journal.Change{Key: key, Value: w.value})
		}
	}
	return out
}

// done forgets changes that were written. One that has changed again meanwhile
// waits from now.
func (p *pending) done(changes []journal.Change, now time.Time) {
	for _, c := range changes {
		w, ok := p.changes[c.Key]
		if !ok {
			continue
		}
		if p.stored(c.Key, w.value) {
			delete(p.changes, c.Key)
			continue
		}
		w.due = now.Add(w.wait)
		p.changes[c.Key] = w
	}
}

// retry puts off changes that could not be written.
func (p *pending) retry(changes []journal.Change, at time.Time) {
	for _, c := range changes {
		if w, ok := p.changes[c.Key]; ok {
			w.due = at
			p.changes[c.Key] = w
		}
	}
}
