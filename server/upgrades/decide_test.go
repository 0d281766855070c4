package upgrades

import (
	"cmp"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/limpetio/limpet/internal/nodeupgrade"
)

func TestOneAfterTheOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n3", "n2", "n1")
	w.node("n1").server = true
	p := w.plan("site", nil)
	w.is("site=Progressing n1:Skipped n2:Upgrading n3:Pending; n2 asked v1.1.0")
	w.reason("site", "n1", "limpet upgrade")
	w.reason("site", "n2", "waits for its agent to see the request")
	w.reason("site", "n3", "waits for its turn")
	if r := w.node("n2").request; !r.FromServer || r.URL != "" || r.Plan != "site" || r.Generation != 1 || r.Timeout != nodeupgrade.Duration(5*time.Minute) {
		t.Errorf("%+v", r)
	}
	w.condition(p, CompleteCondition, metav1.ConditionFalse, "Progressing")

	w.says("n2", nodeupgrade.Preparing, "downloads")
	w.is("site=Progressing n1:Skipped n2:Upgrading n3:Pending; n2 asked v1.1.0")
	w.reason("site", "n2", "downloads")
	w.says("n2", nodeupgrade.Upgraded, "")
	w.node("n2").ready = false
	w.is("site=Progressing n1:Skipped n2:Upgrading n3:Pending; n2 asked v1.1.0")
	w.reason("site", "n2", "waits for the node to be Ready")
	w.node("n2").ready = true
	w.is("site=Progressing n1:Skipped n2:Upgraded n3:Upgrading; n3 asked v1.1.0")
	w.says("n3", nodeupgrade.Upgraded, "")
	w.is("site=Complete n1:Skipped n2:Upgraded n3:Upgraded")
	w.condition(p, CompleteCondition, metav1.ConditionTrue, "Complete")
	w.condition(p, AcceptedCondition, metav1.ConditionTrue, "Accepted")
	w.condition(p, FailedCondition, metav1.ConditionFalse, "NoFailure")
	if p.Status.Upgraded != "2/2" || p.Status.Version != newVersion || p.Status.Nodes[1].From != oldVersion {
		t.Errorf("%+v", p.Status)
	}

	// One that joins later with an old version has its turn, too; one that
	// somebody took back by hand has not.
	w.node("n3").report = nodeupgrade.Report{Version: oldVersion}
	w.nodes = append(w.nodes, agent("n4"))
	w.is("site=Progressing n1:Skipped n2:Upgraded n3:Upgraded n4:Upgrading; n4 asked v1.1.0")
}

func TestFirstFailureStops(t *testing.T) {
	t.Parallel()
	for name, phase := range map[string]nodeupgrade.Phase{"came back": nodeupgrade.Failed, "refused": nodeupgrade.Refused} {
		w := newWorld(t, "n1", "n2")
		p := w.plan("site", func(s *Spec) { s.Version, s.URL = newVersion, "https://example.com/" })
		w.is("site=Progressing n1:Upgrading n2:Pending; n1 asked v1.1.0")
		if r := w.node("n1").request; r.FromServer || r.URL != "https://example.com/" {
			t.Errorf("%+v", r)
		}
		w.says("n1", phase, "bad luck")
		w.is("site=Failed n1:Failed n2:Pending")
		w.reason("site", "", "node n1: bad luck")
		w.reason("site", "n2", "since node n1 has failed")
		w.condition(p, FailedCondition, metav1.ConditionTrue, "NodeFailed")
		if t.Failed() {
			t.Fatal(name)
		}

		// Another specification begins anew.
		p.Generation++
		p.Spec.Timeout = "10m"
		w.is("site=Progressing n1:Upgrading n2:Pending; n1 asked v1.1.0")
		w.condition(p, FailedCondition, metav1.ConditionFalse, "NoFailure")
	}
}

func TestFailureLetsOthersEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1", "n2", "n3")
	w.plan("site", func(s *Spec) { s.Concurrency = 2 })
	w.is("site=Progressing n1:Upgrading n2:Upgrading n3:Pending; n1 asked v1.1.0; n2 asked v1.1.0")
	w.says("n2", nodeupgrade.Failed, "no")
	w.is("site=Failed n1:Upgrading n2:Failed n3:Pending; n1 asked v1.1.0")
	w.says("n1", nodeupgrade.Upgraded, "")
	w.is("site=Failed n1:Upgraded n2:Failed n3:Pending")
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change         func(*Spec)
		world          func(*world)
		reason, saying string
	}{
		"newer than the server": {func(s *Spec) { s.Version = "v1.2.0" }, nil, "NewerThanServer", "limpet upgrade --to v1.2.0"},
		"no version":            {func(s *Spec) { s.Version = "latest" }, nil, "BadVersion", "one looks like v1.2.3"},
		"a url without version": {func(s *Spec) { s.URL = "https://example.com/" }, nil, "BadVersion", "needs a version"},
		"server not settled":    {nil, func(w *world) { w.unsettled = true }, "ServerUpgrade", "not over yet"},
		"no release":            {nil, func(w *world) { w.served = nil }, "NoRelease", "no signed release of the version v1.1.0"},
		"bad selector": {func(s *Spec) {
			s.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Like"}}}
		}, nil, "BadSelector", "nodeSelector"},
	} {
		w := newWorld(t, "n1")
		if c.world != nil {
			c.world(w)
		}
		p := w.plan("site", c.change)
		w.settle()
		if p.Status.Phase != Refused || w.node("n1").asked {
			t.Errorf("%s: %s", name, w)
		}
		w.condition(p, AcceptedCondition, metav1.ConditionFalse, c.reason)
		w.reason("site", "", c.saying)
	}
}

// Nothing is needed where all is as it shall be.
func TestNoReleaseAndNoneNeeded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1")
	w.served, w.server = nil, oldVersion
	w.plan("site", nil)
	w.is("site=Complete n1:Upgraded")
}

// A version that the server does not have is got from where releases are published.
func TestSources(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		version, url string
		served       bool
		fromServer   bool
	}{
		"an older one":                {"v1.0.5", "", true, false},
		"the server's":                {newVersion, "", true, true},
		"the server's, not to be had": {newVersion, "", false, false},
		"from elsewhere":              {newVersion, "https://example.com/", true, false},
		"what the server runs":        {"", "", true, true},
	} {
		w := newWorld(t, "n1")
		w.served = map[string]bool{"amd64": c.served}
		w.plan("site", func(s *Spec) { s.Version, s.URL = c.version, c.url })
		w.settle()
		want := cmp.Or(c.version, newVersion)
		if r := w.node("n1").request; r.FromServer != c.fromServer || r.URL != c.url || r.Version != want {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestPlansThatOverlap(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1", "n2")
	w.node("n1").labels["role"] = "till"
	first := w.plan("first", selecting(map[string]string{"role": "till"}))
	second := w.plan("second", nil)
	w.is("first=Progressing n1:Upgrading; second=Refused n1:Pending n2:Pending; n1 asked v1.1.0")
	w.condition(second, AcceptedCondition, metav1.ConditionFalse, "Overlap")
	w.reason("second", "", "node n1 belongs to plan first already")

	// The second one's turn when the first is gone, whose request is taken back.
	w.plans = w.plans[1:]
	w.is("second=Progressing n1:Upgrading n2:Pending; n1 asked v1.1.0")
	if r := w.node("n1").request; r.Plan != "second" {
		t.Errorf("%+v", r)
	}
	_ = first

	// A plan that is refused anyway is in nobody's way.
	w = newWorld(t, "n1")
	w.plan("bad", func(s *Spec) { s.Version = "v2.0.0" })
	w.plan("good", nil)
	w.is("bad=Refused n1:Pending; good=Progressing n1:Upgrading; n1 asked v1.1.0")
}

// A plan that comes to overlap while a node has its turn ends with that node only.
func TestOverlapInTheMiddle(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1", "n2")
	w.node("n1").labels["role"] = "till"
	w.plan("old", selecting(map[string]string{"role": "old"}))
	w.plan("young", selecting(map[string]string{"role": "till"}))
	w.is("old=Complete; young=Progressing n1:Upgrading; n1 asked v1.1.0")
	w.says("n1", nodeupgrade.Installing, "is at it")
	w.plans[0].Spec.NodeSelector = nil
	w.plans[0].Generation++
	w.is("old=Progressing n1:Pending n2:Upgrading; young=Refused n1:Upgrading; n1 asked v1.1.0; n2 asked v1.1.0")
	w.reason("old", "n1", "another upgrade of it is under way")
	w.says("n1", nodeupgrade.Upgraded, "")
	w.is("old=Progressing n1:Upgraded n2:Upgrading; young=Refused n1:Upgraded; n2 asked v1.1.0")
}

func TestPlanIsDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1", "n2")
	w.plan("site", func(s *Spec) { s.Cordon = true })
	w.is("site=Progressing n1:Upgrading n2:Pending; n1 asked v1.1.0 cordoned by plan-site")
	// Before the agent has begun it is taken back; afterwards it is waited for.
	deleted, before := w.plans, *w.node("n1")
	w.plans = nil
	w.is("")
	w.plans, *w.node("n1") = deleted, before
	w.says("n1", nodeupgrade.Installing, "is at it")
	w.plans = nil
	w.is("n1 asked v1.1.0 cordoned by plan-site")
	w.says("n1", nodeupgrade.Failed, "no")
	w.is("")
}

func TestNodesThatAreAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1", "n2", "n3")
	w.node("n1").ready = false
	w.node("n2").report = nodeupgrade.Report{}
	w.plan("site", nil)
	w.is("site=Progressing n1:Pending n2:Pending n3:Upgrading; n3 asked v1.1.0")
	w.reason("site", "n1", "waits for the node to be Ready")
	w.reason("site", "n2", "has not said which version it runs")
	w.node("n3").ready = false
	w.settle()
	w.reason("site", "n3", "it will see the request when it is back")
	w.says("n3", nodeupgrade.Installing, "is at it")
	w.settle()
	w.reason("site", "n3", "is at it; the node is not Ready at the moment")
	w.node("n1").ready = true // n3 has its turn still
	w.is("site=Progressing n1:Pending n2:Pending n3:Upgrading; n3 asked v1.1.0")
	w.node("n3").ready = true
	w.says("n3", nodeupgrade.Upgraded, "")
	w.is("site=Progressing n1:Upgrading n2:Pending n3:Upgraded; n1 asked v1.1.0")
	w.says("n1", nodeupgrade.Upgraded, "")
	w.is("site=Waiting n1:Upgraded n2:Pending n3:Upgraded")

	// A node that was removed gives its turn back; one with its name is another one.
	w.nodes = w.nodes[1:]
	again := agent("n1")
	again.uid = "another"
	w.nodes = append(w.nodes, again)
	w.is("site=Progressing n1:Upgrading n2:Pending n3:Upgraded; n1 asked v1.1.0")
	w.nodes = w.nodes[:2]
	w.is("site=Waiting n2:Pending n3:Upgraded")
}

func TestSpecChangesInTheMiddle(t *testing.T) {
	t.Parallel()
	begun := func(phase nodeupgrade.Phase) (*world, *Plan) {
		w := newWorld(t, "n1", "n2")
		w.server = "v1.2.0"
		p := w.plan("site", func(s *Spec) { s.Version = newVersion })
		w.is("site=Progressing n1:Upgrading n2:Pending; n1 asked v1.1.0")
		w.says("n1", phase, "x")
		p.Generation++
		return w, p
	}
	w, p := begun(nodeupgrade.Preparing)
	p.Spec.Version = "v1.2.0"
	w.is("site=Progressing n1:Upgrading n2:Pending; n1 asked v1.2.0")

	w, p = begun(nodeupgrade.Installing)
	p.Spec.Version = "v1.2.0"
	w.is("site=Progressing n1:Upgrading n2:Pending; n1 asked v1.1.0")
	w.reason("site", "n1", "finishes first what it has begun: the upgrade to v1.1.0")
	w.says("n1", nodeupgrade.Upgraded, "")
	w.is("site=Progressing n1:Upgrading n2:Pending; n1 asked v1.2.0")

	// Not selected any more: it counts as under way until it has ended.
	w, p = begun(nodeupgrade.Installing)
	w.node("n2").labels["role"] = "till"
	selecting(map[string]string{"role": "till"})(&p.Spec)
	w.is("site=Waiting n2:Pending; n1 asked v1.1.0")
	w.says("n1", nodeupgrade.Failed, "no")
	w.is("site=Progressing n2:Upgrading; n2 asked v1.1.0")

	// Refused now.
	w, p = begun(nodeupgrade.Preparing)
	p.Spec.Version = "v2.0.0"
	w.is("site=Refused n1:Pending n2:Pending")
	w, p = begun(nodeupgrade.Installing)
	p.Spec.Version = "v2.0.0"
	w.is("site=Refused n1:Upgrading n2:Pending; n1 asked v1.1.0")
	w.says("n1", nodeupgrade.Upgraded, "")
	w.is("site=Refused n1:Pending n2:Pending")
}

// A plan without a version follows the server.
func TestServerIsUpgraded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1")
	w.server = oldVersion
	w.plan("site", nil)
	w.is("site=Complete n1:Upgraded")
	w.reason("site", "n1", "ran v1.0.0 already")
	w.server = newVersion
	w.is("site=Progressing n1:Upgrading; n1 asked v1.1.0")
	w.says("n1", nodeupgrade.Failed, "no")
	w.is("site=Failed n1:Failed")
	w.server = "v1.1.1"
	w.is("site=Progressing n1:Upgrading; n1 asked v1.1.1")
}

func TestArchitectureThatTheServerLacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1", "n2")
	w.node("n1").arch = "arm64"
	w.plan("site", nil)
	w.is("site=Progressing n1:Pending n2:Upgrading; n2 asked v1.1.0")
	w.reason("site", "n1", "no release of v1.1.0 for arm64")
	w.served["arm64"] = true
	w.says("n2", nodeupgrade.Upgraded, "")
	w.is("site=Progressing n1:Upgrading n2:Upgraded; n1 asked v1.1.0")
}

func TestDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1", "n2")
	p := w.plan("site", func(s *Spec) { s.Drain = &Drain{Timeout: "1m"} })
	w.is("site=Progressing n1:Draining n2:Pending; n1 cordoned by plan-site")
	d := decide(w.state)
	if len(d.drains) != 1 || d.drains[0].node != "n1" || d.drains[0].how.Timeout != "1m" {
		t.Fatalf("%+v", d.drains)
	}
	key := d.drains[0].key
	w.drained[key] = drained{began: w.now, left: "default/web"}
	w.is("site=Progressing n1:Draining n2:Pending; n1 cordoned by plan-site")
	w.reason("site", "n1", "left: default/web")
	w.now = w.now.Add(30 * time.Second)
	w.drained[key] = drained{began: w.now, done: true}
	w.is("site=Progressing n1:Upgrading n2:Pending; n1 asked v1.1.0 cordoned by plan-site")
	if d := decide(w.state); len(d.drains) > 0 {
		t.Errorf("%+v", d.drains)
	}
	w.says("n1", nodeupgrade.Failed, "no")
	w.is("site=Failed n1:Failed n2:Pending")

	// What somebody else has cordoned stays so.
	p.Generation++
	w.drained = map[string]drained{}
	w.node("n1").unschedulable = true
	w.is("site=Progressing n1:Draining n2:Pending; n1 cordoned")
	w.drained[key] = drained{began: w.now, left: "default/web; the budget web allows none"}
	w.now = w.now.Add(time.Minute + time.Second)
	w.is("site=Failed n1:Failed n2:Pending; n1 cordoned")
	w.reason("site", "n1", "not drained within 1m0s, and so not upgraded: default/web; the budget")

	// Nobody brings that pod back.
	p.Generation++
	w.node("n1").unschedulable = false
	w.drained = map[string]drained{key: {began: w.now, never: "no controller: default/x"}}
	w.is("site=Failed n1:Failed n2:Pending")
	w.reason("site", "n1", "cannot be drained like this, and so not upgraded: no controller: default/x")
}

func TestDrainIsGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1")
	p := w.plan("site", func(s *Spec) { s.Drain = &Drain{Timeout: "1m"} })
	w.is("site=Progressing n1:Draining; n1 cordoned by plan-site")
	p.Generation++
	p.Spec.Version = "v9.0.0"
	w.is("site=Refused n1:Pending")
}

func TestCordon(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1")
	w.plan("site", func(s *Spec) { s.Cordon = true })
	w.is("site=Progressing n1:Upgrading; n1 asked v1.1.0 cordoned by plan-site")
	w.says("n1", nodeupgrade.Upgraded, "")
	w.is("site=Complete n1:Upgraded")
}

// What others write into the annotation is no request of ours, and goes.
func TestForeignRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1", "n2")
	w.node("n1").asked = true // unreadable
	w.node("n2").asked, w.node("n2").request = true, nodeupgrade.Request{Node: "n2", Plan: "x", UID: "x", Generation: 1, Version: "v0.1.0"}
	w.is("")
	w.node("n1").asked = true
	w.plan("site", selecting(map[string]string{"kubernetes.io/hostname": "n1"}))
	w.is("site=Progressing n1:Upgrading; n1 asked v1.1.0")
}

func TestNothingToSelect(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "n1")
	w.plan("site", selecting(labels.Set{"no": "such"}))
	w.is("site=Complete")
	w.reason("site", "", "no agent is selected")
}
