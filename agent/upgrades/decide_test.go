package upgrades

import (
	"strings"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/nodeupgrade"
	"github.com/limpetio/limpet/internal/upgrade"
)

const (
	oldVersion = "v1.0.0"
	newVersion = "v1.1.0"
)

func wanted() nodeupgrade.Request {
	return nodeupgrade.Request{Node: "n2", Plan: "site", UID: "u1", Generation: 1, Version: newVersion, Timeout: nodeupgrade.Duration(time.Minute)}
}

// journal is one of the wanted request.
func journal(phase upgrade.Phase) *upgrade.Journal {
	return &upgrade.Journal{
		ID: "j1", Kind: "upgrade", RequestedBy: requestedBy(wanted()), Phase: phase,
		From: upgrade.Build{Version: oldVersion}, To: upgrade.Build{Version: newVersion},
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	id := wanted().ID()
	foreign := func(phase upgrade.Phase) *upgrade.Journal {
		j := journal(phase)
		j.RequestedBy = ""
		return j
	}
	because := func(j *upgrade.Journal, reason string) *upgrade.Journal {
		j.Reason = reason
		return j
	}
	for name, c := range map[string]struct {
		change func(*facts)
		phase  nodeupgrade.Phase
		reason string
		start  bool
		follow string
	}{
		"nothing is asked": {change: func(f *facts) { f.asked = false }},
		"nothing is asked, an old outcome": {change: func(f *facts) {
			f.asked, f.reported = false, nodeupgrade.Report{Version: oldVersion, Request: id, Phase: nodeupgrade.Failed}
		}},
		"asked":                      {phase: nodeupgrade.Preparing, reason: "gets v1.1.0", start: true},
		"asked of another node":      {change: func(f *facts) { f.node = "n3" }, phase: nodeupgrade.Refused, reason: `it is for node "n2"`},
		"asked nonsense":             {change: func(f *facts) { f.request = "{" }, phase: nodeupgrade.Refused, reason: "annotation limpet.io/upgrade"},
		"runs it":                    {change: func(f *facts) { f.running = newVersion }, phase: nodeupgrade.Upgraded, reason: "ran it already"},
		"an upgrade by hand":         {change: func(f *facts) { f.journal = foreign(upgrade.Watching) }, phase: nodeupgrade.Preparing, reason: "another upgrade is under way", follow: "j1"},
		"not even when it runs it":   {change: func(f *facts) { f.running, f.journal = newVersion, foreign(upgrade.Watching) }, phase: nodeupgrade.Preparing, reason: "another", follow: "j1"},
		"an upgrade by hand is over": {change: func(f *facts) { f.journal = foreign(upgrade.Confirmed) }, phase: nodeupgrade.Preparing, reason: "gets", start: true},
		"one that nobody waits for":  {change: func(f *facts) { f.asked, f.journal = false, foreign(upgrade.Watching) }, follow: "j1"},

		"attempt":             {change: func(f *facts) { f.attempt = attempt{id, running, "half"} }, phase: nodeupgrade.Preparing, reason: "half"},
		"attempt pauses":      {change: func(f *facts) { f.attempt = attempt{id, pausing, "no line"} }, phase: nodeupgrade.Preparing, reason: "no line"},
		"attempt again":       {change: func(f *facts) { f.attempt = attempt{id: id} }, phase: nodeupgrade.Preparing, reason: "gets", start: true},
		"attempt refused":     {change: func(f *facts) { f.attempt = attempt{id, refused, "not signed"} }, phase: nodeupgrade.Refused, reason: "not signed"},
		"attempt, same":       {change: func(f *facts) { f.attempt = attempt{id, same, "same"} }, phase: nodeupgrade.Upgraded, reason: "same"},
		"attempt at another":  {change: func(f *facts) { f.attempt = attempt{"x", refused, "not signed"} }, phase: nodeupgrade.Preparing, reason: "gets", start: true},
		"attempt handed over": {change: func(f *facts) { f.attempt = attempt{id, begun, "handed over"} }, phase: nodeupgrade.Preparing, reason: "handed over"},

		"staged":           {change: func(f *facts) { f.journal = journal(upgrade.Staged) }, phase: nodeupgrade.Installing, reason: "is replaced by v1.1.0", follow: "j1"},
		"switching":        {change: func(f *facts) { f.journal = journal(upgrade.Switching) }, phase: nodeupgrade.Installing, reason: "is replaced", follow: "j1"},
		"watching, as new": {change: func(f *facts) { f.running, f.journal = newVersion, journal(upgrade.Watching) }, phase: nodeupgrade.Installing, reason: "is watched", follow: "j1"},
		"returning":        {change: func(f *facts) { f.journal = because(journal(upgrade.Returning), "kubelet") }, phase: nodeupgrade.Installing, reason: "goes back to v1.0.0: kubelet", follow: "j1"},
		"confirmed":        {change: func(f *facts) { f.running, f.journal = newVersion, journal(upgrade.Confirmed) }, phase: nodeupgrade.Upgraded},
		"rolled back":      {change: func(f *facts) { f.journal = because(journal(upgrade.RolledBack), "kubelet") }, phase: nodeupgrade.Failed, reason: "v1.1.0 did not get well, and v1.0.0 is back: kubelet"},
		"rolled back, unwell": {change: func(f *facts) {
			f.journal = because(journal(upgrade.RolledBack), "kubelet")
			f.journal.Unwell = "containerd"
		}, phase: nodeupgrade.Failed, reason: "v1.0.0 is not well either: containerd"},
		"abandoned": {change: func(f *facts) { f.journal = because(journal(upgrade.Abandoned), "no space") }, phase: nodeupgrade.Refused, reason: "before anything was changed: no space"},

		// Somebody went on by hand, or the journal is lost.
		"told already": {change: func(f *facts) {
			f.reported = nodeupgrade.Report{Version: oldVersion, Request: id, Phase: nodeupgrade.Failed, Reason: "kubelet"}
			f.journal = foreign(upgrade.Confirmed)
		}, phase: nodeupgrade.Failed, reason: "kubelet"},
		"told of preparing, and restarted": {change: func(f *facts) {
			f.reported = nodeupgrade.Report{Version: oldVersion, Request: id, Phase: nodeupgrade.Preparing, Reason: "half"}
		}, phase: nodeupgrade.Preparing, reason: "gets", start: true},
	} {
		f := facts{node: "n2", running: oldVersion, request: wanted().String(), asked: true}
		if c.change != nil {
			c.change(&f)
		}
		s := decide(f)
		if s.report.Version != f.running || s.report.Phase != c.phase || !strings.Contains(s.report.Reason, c.reason) || c.reason == "" && s.report.Reason != "" {
			t.Errorf("%s: reports %+v, want %s %q", name, s.report, c.phase, c.reason)
		}
		if (s.start.UID != "") != c.start || s.follow != c.follow {
			t.Errorf("%s: starts %+v, follows %q", name, s.start, s.follow)
		}
		if about := f.asked && c.phase != "" && strings.HasPrefix(f.request, `{"node":"n2"`) && f.node == "n2"; about != (s.report.Request == id) {
			t.Errorf("%s: the report is about %q", name, s.report.Request)
		}
	}
}
