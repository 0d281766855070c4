package upgrade

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// The model: what is on the machine, as far as an operation can change it.
type world struct {
	Installed string // "from" or "to"
	Running   string // "", "from", "to"
	// Data is whose the datastore is: "before" (nothing of the new binary has
	// written to it), "after" (it has, or may have), "restored" (the snapshot that
	// belongs to the target of the way forward).
	Data string
	// HasSnapshot: one of "before" was taken.
	HasSnapshot bool
}

type state struct {
	j Journal
	w world
}

func (p state) key() string { return fmt.Sprintf("%+v|%+v", p.j, p.w) }

// boot is what the machine does by itself after a power cut: it starts what is
// installed, which waits if the journal says so, unless it is a bad binary.
func (p state) boot(toWaits bool) world {
	w := p.w
	w.Running = w.Installed
	if p.j.Offline() && (w.Installed == "from" || toWaits) {
		w.Running = "" // waits without having touched anything
	}
	return w.run()
}

// run: whoever runs writes to the data.
func (w world) run() world {
	if w.Running == "to" && w.Data == "before" {
		w.Data = "after"
	}
	return w
}

// effect is what a step does when it succeeds.
func (p state) effect() world {
	w := p.w
	back := p.j.Phase == Returning
	switch p.j.Step {
	case StepSnapshot:
		w.HasSnapshot = true
	case StepStop:
		w.Running = ""
	case StepInstall:
		w.Installed = "to"
		if back {
			w.Installed = "from"
		}
	case StepRestore:
		w.Data = "restored"
		if back {
			w.Data = "before"
		}
	case StepStart:
		w.Running = w.Installed
	}
	return w.run()
}

func testJournal(kind Kind, server bool) Journal {
	j := Journal{
		Format: 1, ID: "a", Kind: kind, Phase: Staged, Installed: "/usr/local/bin/limpet", Timeout: time.Minute,
		From: Build{SHA256: fmt.Sprintf("%064d", 1)}, To: Build{SHA256: fmt.Sprintf("%064d", 2)}, Service: Service{Manager: Systemd, Name: "limpet"},
	}
	if server {
		j.Database, j.SnapshotDir = "/d/state.db", "/d/snapshots"
		if kind == KindRollback {
			j.Restore = "/d/snapshots/old"
		}
	}
	return j
}

// TestEveryContinuationEndsWell follows every journal through success, failure,
// and a power cut before and after the effect of each step, with a new binary
// that waits at a boot and one that does not, and looks at where it can end.
func TestEveryContinuationEndsWell(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{KindUpgrade, KindRollback} {
		for _, server := range []bool{true, false} {
			for _, toWaits := range []bool{true, false} {
				explore(t, testJournal(kind, server), toWaits)
			}
		}
	}
}

func explore(t *testing.T, start Journal, toWaits bool) {
	t.Helper()
	name := fmt.Sprintf("%s, server %t, new one waits %t", start.Kind, start.Database != "", toWaits)
	todo := []state{{start, world{Installed: "from", Running: "from", Data: "before"}}}
	seen := map[string]bool{}
	ends := map[Phase]int{}
	for len(todo) > 0 {
		p := todo[0]
		todo = todo[1:]
		if seen[p.key()] {
			continue
		}
		seen[p.key()] = true
		if err := p.j.valid(); err != nil {
			t.Fatalf("%s: %+v: %v", name, p.j, err)
		}
		if p.j.Final() {
			ends[p.j.Phase]++
			p.checkEnd(t, name)
			continue
		}
		p.checkStep(t, name)
		todo = append(todo, p.successors(toWaits)...)
	}
	if ends[Confirmed] == 0 || ends[RolledBack] == 0 || ends[Abandoned] == 0 {
		t.Errorf("%s: not every end is reached: %v", name, ends)
	}
}

func (p state) successors(toWaits bool) []state {
	done := Event{Kind: Done}
	if p.j.Step == StepSnapshot {
		done.Snapshot = "/d/snapshots/now"
	}
	list := []state{{p.j.Next(done), p.effect()}, {p.j.Next(Event{Kind: Failed, Reason: "x"}), p.w}, {p.j.Next(Event{Kind: Failed, Reason: "x"}), p.effect()}}
	for _, w := range []world{p.w, p.effect()} { // cut off before the effect, or before it was noted
		cut := state{p.j, w}
		next := p.j
		if p.j.Phase != Staged { // as Guard does
			next = p.j.Next(Event{Kind: Resumed})
		}
		list = append(list, state{next, cut.boot(toWaits)})
	}
	return list
}

// checkEnd: the new one runs, or the old one with the data of before.
func (p state) checkEnd(t *testing.T, name string) {
	t.Helper()
	rollbackWithData := p.j.Restore != ""
	ok := false
	switch p.j.Phase {
	case Confirmed:
		ok = p.w.Installed == "to" && p.w.Running == "to" && (!rollbackWithData || p.w.Data == "restored")
	case RolledBack, Abandoned:
		ok = p.w.Installed == "from" && p.w.Running == "from" && (p.j.Database == "" || p.w.Data == "before")
	}
	if !ok {
		t.Errorf("%s: ends as %s with %+v: %+v", name, p.j.Phase, p.w, p.j)
	}
}

// checkStep: data is only replaced while nothing runs, by what belongs to it.
func (p state) checkStep(t *testing.T, name string) {
	t.Helper()
	switch p.j.Step {
	case StepRestore:
		want := "to"
		if p.j.Phase == Returning {
			want = "from"
			if !p.w.HasSnapshot {
				t.Errorf("%s: restores what was never saved: %+v", name, p.j)
			}
		}
		if p.w.Installed != want {
			t.Errorf("%s: %s is installed while its data is restored: %+v", name, p.w.Installed, p.j)
		}
		if p.w.Running != "" {
			t.Errorf("%s: %s runs while the data is replaced: %+v", name, p.w.Running, p.j)
		}
	case StepStart:
		if p.j.Phase == Returning && p.j.Touched && p.j.Database != "" && p.w.Data != "before" {
			t.Errorf("%s: the old one starts with the data of the new one: %+v %+v", name, p.j, p.w)
		}
	}
}

func TestAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	j := testJournal(KindUpgrade, true)
	for j.Phase != Watching {
		j = j.Next(Event{Kind: Done, Snapshot: "/d/snapshots/now"})
	}
	for range maxAttempts {
		if j = j.Next(Event{Kind: Resumed}); j.Phase != Watching {
			t.Fatalf("after %d attempts: %+v", j.Attempts, j)
		}
	}
	if j = j.Next(Event{Kind: Resumed}); j.Phase != Returning || j.Step != StepStop || j.Reason == "" {
		t.Fatalf("it goes on for ever: %+v", j)
	}
	for range 3 * maxAttempts { // the way back has no end but the end
		if j = j.Next(Event{Kind: Resumed}); j.Phase != Returning {
			t.Fatalf("%+v", j)
		}
	}
}

func TestWays(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind   Kind
		server bool
		fail   Step
		want   []Step
	}{
		{KindUpgrade, true, "", []Step{StepSnapshot, StepInstall, StepStart, StepWatch}},
		{KindUpgrade, false, "", []Step{StepInstall, StepStart, StepWatch}},
		{KindRollback, true, "", []Step{StepSnapshot, StepStop, StepInstall, StepRestore, StepStart, StepWatch}},
		{KindRollback, false, "", []Step{StepInstall, StepStart, StepWatch}},
		{KindUpgrade, true, StepSnapshot, []Step{StepSnapshot}},
		{KindUpgrade, true, StepWatch, []Step{StepSnapshot, StepInstall, StepStart, StepWatch, StepStop, StepInstall, StepRestore, StepStart, StepWatch}},
		{KindUpgrade, false, StepWatch, []Step{StepInstall, StepStart, StepWatch, StepInstall, StepStart, StepWatch}},
		{KindRollback, true, StepStop, []Step{StepSnapshot, StepStop, StepInstall, StepStart, StepWatch}},
	} {
		j := testJournal(c.kind, c.server).Next(Event{Kind: Done})
		var got []Step
		for !j.Final() {
			got = append(got, j.Step)
			e := Event{Kind: Done, Snapshot: "/d/snapshots/now"}
			if j.Step == c.fail && j.Phase != Returning {
				e = Event{Kind: Failed, Reason: "x"}
			}
			j = j.Next(e)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s, server %t, %s fails: %v, want %v", c.kind, c.server, c.fail, got, c.want)
		}
	}
}

func TestUnwellAfterReturn(t *testing.T) {
	t.Parallel()
	j := testJournal(KindUpgrade, false)
	j.Phase, j.Step, j.Reason = Returning, StepStart, "first"
	j = j.Next(Event{Kind: Failed, Reason: "busy"})
	if j.Step != StepStart || j.Unwell != "busy" {
		t.Fatalf("%+v", j)
	}
	j = j.Next(Event{Kind: Done})
	if j.Unwell != "" {
		t.Fatalf("%+v", j)
	}
	j = j.Next(Event{Kind: Failed, Reason: "no containerd"})
	if j.Phase != RolledBack || j.Reason != "first" || j.Unwell != "no containerd" {
		t.Fatalf("%+v", j)
	}
}
