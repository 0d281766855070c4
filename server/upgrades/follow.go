package upgrades

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpetio/limpet/internal/nodeupgrade"
)

// advance says where every node of the plan stands now, and adds to patches and
// drains what follows from where it stood when it was read.
func (e *evaluation) advance(nodes []*node) []Record {
	var records []Record
	ready := map[string]bool{} // can be begun with
	underWay := 0
	failed := ""
	for _, n := range e.selected {
		r, can := e.node(n)
		records = append(records, r)
		ready[n.name] = can
		if r.Phase.underWay() {
			underWay++
		}
		if r.Phase == Failed && failed == "" {
			failed = n.name
		}
	}
	// A node that the plan does not select any more may still be at it.
	for _, n := range nodes {
		if e.ours(n) && !e.selector.Matches(n.labels) && abandon(n).empty() {
			underWay++
		}
	}
	free := max(e.plan.Spec.Concurrency, defaultConcurrency) - underWay
	for i := range records {
		r := &records[i]
		if r.Phase != Pending || !ready[r.Name] {
			continue
		}
		switch {
		case e.refused != nil:
			r.Reason = "the plan is not carried out"
		case failed != "":
			r.Reason = "not begun with, since node " + failed + " has failed"
		case free <= 0:
			r.Reason = "waits for its turn"
		default:
			free--
			e.begin(r)
		}
	}
	return records
}

// begin gives a node its turn.
func (e *evaluation) begin(r *Record) {
	r.From = e.find(r.Name).report.Version
	if e.plan.Spec.Drain != nil {
		e.enter(r, Draining, "its pods are evicted")
		return
	}
	e.enter(r, Upgrading, "has its turn")
}

func (e *evaluation) find(name string) *node {
	i := slices.IndexFunc(e.selected, func(n *node) bool { return n.name == name })
	return e.selected[i] // records are made of them
}

// enter changes the phase.
func (e *evaluation) enter(r *Record, phase NodePhase, reason string) {
	if r.Phase != phase {
		r.Since = metav1.NewTime(e.now.Truncate(time.Second))
	}
	r.Phase, r.Reason = phase, reason
}

// node says where one node stands; can: it may have its turn.
func (e *evaluation) node(n *node) (r Record, can bool) {
	r, known := e.records[n.name]
	if !known || r.UID != n.uid {
		r = Record{Name: n.name, UID: n.uid}
		e.enter(&r, Pending, "")
	}
	if n.server {
		e.enter(&r, Skipped, "a server is upgraded on its own machine: limpet upgrade")
		return r, false
	}
	c := patch{node: n.name, uid: n.uid}
	switch r.Phase {
	case Draining:
		e.drain(n, &r, &c)
	case Upgrading:
		e.upgrade(n, &r, &c)
	case Upgraded, Failed:
		e.end(n, &c)
	default:
		can = e.wait(n, &r, &c)
	}
	if e.refused == nil || r.Phase.underWay() || e.ours(n) {
		e.patches = append(e.patches, c) // else another plan may have to do with it
	}
	return r, can
}

// wait is for a node that has not had its turn.
func (e *evaluation) wait(n *node, r *Record, c *patch) (can bool) {
	*c = abandon(n) // of an earlier specification
	reason := ""
	switch {
	case n.report.Version == "":
		reason = "its agent has not said which version it runs: it is one that cannot be upgraded from here, or has not started yet"
	case n.report.Phase == nodeupgrade.Installing:
		reason = "another upgrade of it is under way"
	case n.report.Version == e.target:
		if e.refused == nil {
			e.enter(r, Upgraded, "ran "+e.target+" already")
			return false
		}
		reason = "runs " + e.target
	case !n.ready:
		reason = "waits for the node to be Ready"
	case e.plan.Spec.URL == "" && e.plan.Spec.Version == "" && !e.served[n.arch]:
		reason = fmt.Sprintf("the server has no release of %s for %s: give it one with `limpet release add`", e.target, n.arch)
	default:
		can = true
	}
	e.enter(r, Pending, reason)
	return can
}

// drain is for a node whose pods are to go first.
func (e *evaluation) drain(n *node, r *Record, c *patch) {
	how := e.plan.Spec.Drain
	if e.refused != nil { // whoever has to do with the node next uncordons it
		e.enter(r, Pending, "the plan is not carried out")
		return
	}
	if how == nil { // not any more
		e.enter(r, Upgrading, "has its turn")
		return
	}
	if !n.unschedulable {
		c.cordon = &cordon{on: true, plan: string(e.plan.UID)}
		return
	}
	last := e.drained[drainKey(e.plan, n)]
	limit := within(how.Timeout)
	switch {
	case last.done:
		e.enter(r, Upgrading, "its pods are gone, has its turn")
		return
	case last.never != "":
		e.enter(r, Failed, "cannot be drained like this, and so not upgraded: "+last.never)
		return
	case !last.began.IsZero() && e.now.Sub(last.began) > limit:
		reason := fmt.Sprintf("not drained within %s, and so not upgraded", limit)
		if last.left != "" {
			reason += ": " + last.left
		}
		e.enter(r, Failed, reason)
		return
	case last.left != "":
		e.enter(r, Draining, "its pods are evicted; left: "+last.left)
	}
	e.drains = append(e.drains, drain{key: drainKey(e.plan, n), node: n.name, how: *how})
}

// upgrade is for a node that is asked to upgrade itself.
func (e *evaluation) upgrade(n *node, r *Record, c *patch) {
	want := e.request(n)
	if !n.asked || n.request.ID() != want.ID() {
		e.ask(n, want, r, c)
		return
	}
	report := n.report.About(want.ID())
	away := ""
	if !n.ready {
		away = "; the node is not Ready at the moment"
	}
	switch {
	case report.Phase == nodeupgrade.Upgraded && n.ready:
		e.enter(r, Upgraded, "")
	case report.Phase == nodeupgrade.Upgraded:
		e.enter(r, Upgrading, e.target+" runs; waits for the node to be Ready")
	case report.Phase.Final():
		e.enter(r, Failed, report.Reason)
	case report.Phase == "" && !n.ready:
		e.enter(r, Upgrading, "the node is not Ready: it will see the request when it is back")
	case report.Phase == "":
		e.enter(r, Upgrading, "waits for its agent to see the request")
	default:
		e.enter(r, Upgrading, report.Reason+away)
	}
}

// ask makes the request; one of an earlier specification is replaced, unless the
// agent has begun with it.
func (e *evaluation) ask(n *node, want nodeupgrade.Request, r *Record, c *patch) {
	switch {
	case e.ours(n) && n.report.About(n.request.ID()).Phase == nodeupgrade.Installing:
		e.enter(r, Upgrading, "finishes first what it has begun: the upgrade to "+n.request.Version)
		return
	case e.refused != nil:
		if e.ours(n) {
			*c = abandon(n)
		}
		e.enter(r, Pending, "the plan is not carried out")
		return
	}
	text := want.String()
	c.request = &text
	if (e.plan.Spec.Cordon || e.plan.Spec.Drain != nil) && !n.unschedulable {
		c.cordon = &cordon{on: true, plan: string(e.plan.UID)}
	}
}

// end cleans up behind a node once its outcome is on record.
func (e *evaluation) end(n *node, c *patch) {
	if e.ours(n) || !n.asked {
		c.take(n)
	}
}
