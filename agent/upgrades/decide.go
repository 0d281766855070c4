// Package upgrades is the agent's side of an UpgradePlan: it does what the server
// asks for in an annotation on this node's own Node (internal/nodeupgrade), and
// reports in another one, with the kubelet's identity.
//
// The server names a release and nothing more. This process gets it, verifies it with
// the key that is stamped into this binary, and hands over to the guard of
// internal/upgrade, which replaces this process and comes back to the binary of before
// if the new one does not get well. How that ended is in the guard's journal, from
// which whichever binary runs then reports.
package upgrades

import (
	"fmt"
	"strings"

	"github.com/limpetio/limpet/internal/nodeupgrade"
	"github.com/limpetio/limpet/internal/upgrade"
)

// facts are what the agent decides from.
type facts struct {
	node    string
	running string // version
	// request is the annotation as it is; asked: there is one.
	request string
	asked   bool
	// reported is the last report on the Node, zero if there is none.
	reported nodeupgrade.Report
	// journal is the newest upgrade of this machine, whoever wanted it; nil: none.
	journal *upgrade.Journal
	// attempt is what this process has tried, for the request with its id.
	attempt attempt
}

// attempt is the preparation of one request in this process.
type attempt struct {
	id    string
	state attemptState
	// text is what it is about at the moment, or why it has ended.
	text string
}

type attemptState string

const (
	none    attemptState = ""
	running attemptState = "running" // downloads, verifies
	begun   attemptState = "begun"   // the guard has it
	pausing attemptState = "pausing" // failed, and is tried again
	refused attemptState = "refused" // failed for good
	same    attemptState = "same"    // this very binary is installed
)

// step is what is to be done.
type step struct {
	report nodeupgrade.Report
	// start is a request to begin with; its ID is empty if there is none.
	start nodeupgrade.Request
	// follow is the id of an operation whose end is waited for.
	follow string
}

// requestedBy is how the journal names a request; by it, it is found again.
func requestedBy(r nodeupgrade.Request) string {
	return fmt.Sprintf("plan %s (%s)", r.Plan, r.ID())
}

// decide says what to do. It depends on nothing but f.
func decide(f facts) step {
	s := step{report: nodeupgrade.Report{Version: f.running}}
	if f.journal != nil && !f.journal.Final() {
		s.follow = f.journal.ID
	}
	if !f.asked {
		return s
	}
	r, err := nodeupgrade.ParseRequest(f.request, f.node)
	if err != nil {
		s.report.Phase, s.report.Reason = nodeupgrade.Refused, err.Error()
		return s
	}
	s.report.Request = r.ID()
	if f.journal != nil && f.journal.RequestedBy == requestedBy(r) {
		s.report.Phase, s.report.Reason = outcome(*f.journal)
		return s
	}
	if told := f.reported.About(r.ID()); told.Phase.Final() {
		s.report.Phase, s.report.Reason = told.Phase, told.Reason
		return s
	}
	s.report.Phase = nodeupgrade.Preparing
	if s.follow != "" {
		s.report.Reason = "another " + string(f.journal.Kind) + " is under way, which comes first"
		return s
	}
	if f.running == r.Version {
		s.report.Phase, s.report.Reason = nodeupgrade.Upgraded, "ran it already"
		return s
	}
	f.attempted(r, &s)
	return s
}

// attempted is for a request that is this agent's to fulfil.
func (f facts) attempted(r nodeupgrade.Request, s *step) {
	a := f.attempt
	if a.id != r.ID() {
		a = attempt{}
	}
	s.report.Reason = a.text
	switch a.state {
	case none:
		s.report.Reason = "gets " + r.Version
		s.start = r
	case refused:
		s.report.Phase = nodeupgrade.Refused
	case same:
		s.report.Phase = nodeupgrade.Upgraded
	case running, begun, pausing:
	}
}

// outcome reads the journal of a request.
func outcome(j upgrade.Journal) (nodeupgrade.Phase, string) {
	switch j.Phase {
	case upgrade.Confirmed:
		return nodeupgrade.Upgraded, ""
	case upgrade.RolledBack:
		reason := fmt.Sprintf("%s did not get well, and %s is back", j.To.Version, j.From.Version)
		if j.Reason != "" {
			reason += ": " + j.Reason
		}
		if j.Unwell != "" {
			reason += "; " + j.From.Version + " is not well either: " + j.Unwell
		}
		return nodeupgrade.Failed, reason
	case upgrade.Abandoned:
		return nodeupgrade.Refused, strings.TrimSuffix("given up before anything was changed: "+j.Reason, ": ")
	case upgrade.Watching:
		return nodeupgrade.Installing, j.To.Version + " was started and is watched until it is well"
	case upgrade.Returning:
		return nodeupgrade.Installing, "goes back to " + j.From.Version + ": " + j.Reason
	case upgrade.Staged, upgrade.Switching:
	}
	return nodeupgrade.Installing, "is replaced by " + j.To.Version
}
