package upgrades

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/limpetio/limpet/internal/nodeupgrade"
)

const (
	oldVersion = "v1.0.0"
	newVersion = "v1.1.0"
)

// world is an API server that decisions are carried out on.
type world struct {
	*testing.T
	state
	ages int
}

func newWorld(t *testing.T, agents ...string) *world {
	w := &world{T: t, state: state{now: time.Unix(1e9, 0), server: newVersion, served: map[string]bool{"amd64": true}, drained: map[string]drained{}}}
	for _, name := range agents {
		w.nodes = append(w.nodes, agent(name))
	}
	return w
}

func agent(name string) *node {
	return &node{
		name: name, uid: "uid-" + name, arch: "amd64", labels: labels.Set{"kubernetes.io/hostname": name},
		ready: true, report: nodeupgrade.Report{Version: oldVersion},
	}
}

func (w *world) plan(name string, change func(*Spec)) *Plan {
	w.ages++
	p := &Plan{ObjectMeta: metav1.ObjectMeta{
		Name: name, UID: types.UID("plan-" + name), Generation: 1,
		CreationTimestamp: metav1.NewTime(w.now.Add(time.Duration(w.ages) * time.Second)),
	}, Spec: Spec{Concurrency: 1, Timeout: "5m"}}
	if change != nil {
		change(&p.Spec)
	}
	w.plans = append(w.plans, p)
	return p
}

func (w *world) node(name string) *node {
	w.Helper()
	for _, n := range w.nodes {
		if n.name == name {
			return n
		}
	}
	w.Fatalf("no node %s", name)
	return nil
}

// pass decides once and carries it out; it reports whether anything was to be done.
func (w *world) pass() bool {
	w.Helper()
	d := decide(w.state)
	w.apply(d)
	return len(d.statuses)+len(d.patches) > 0
}

func (w *world) apply(d decision) {
	w.Helper()
	for _, p := range w.plans {
		if s, ok := d.statuses[p.Name]; ok {
			p.Status = w.roundTrip(p, s)
		}
	}
	for _, c := range d.patches {
		n := w.node(c.node)
		if n.uid == c.uid {
			n.apply(c)
		}
	}
}

// roundTrip is the status as it comes back from the API server.
func (w *world) roundTrip(p *Plan, s Status) Status {
	w.Helper()
	u, err := p.withStatus(s)
	if err != nil {
		w.Fatal(err)
	}
	data, err := u.MarshalJSON()
	if err != nil {
		w.Fatal(err)
	}
	var back unstructured.Unstructured
	if err := back.UnmarshalJSON(data); err != nil {
		w.Fatal(err)
	}
	again, err := parsePlan(&back)
	if err != nil {
		w.Fatal(err)
	}
	return again.Status
}

func (n *node) apply(c patch) {
	if c.request != nil {
		n.asked, n.request = *c.request != "", nodeupgrade.Request{}
		if n.asked {
			n.request, _ = nodeupgrade.ParseRequest(*c.request, n.name)
		}
	}
	if c.cordon != nil {
		n.unschedulable, n.cordonedBy = c.cordon.on, c.cordon.plan
	}
}

// settle runs passes until there is nothing more to do.
func (w *world) settle() {
	w.Helper()
	for range 20 {
		if !w.pass() {
			return
		}
	}
	w.Fatalf("decisions do not come to an end: %s", w)
}

// says makes the agent report on what it is asked.
func (w *world) says(name string, phase nodeupgrade.Phase, reason string) {
	w.Helper()
	n := w.node(name)
	if !n.asked {
		w.Fatalf("node %s is asked nothing", name)
	}
	n.report.Request, n.report.Phase, n.report.Reason = n.request.ID(), phase, reason
	if phase == nodeupgrade.Upgraded {
		n.report.Version = n.request.Version
	}
}

// String is the state in one line: plans with their nodes, then what Nodes carry.
func (w *world) String() string {
	var out []string
	for _, p := range w.plans {
		line := fmt.Sprintf("%s=%s", p.Name, p.Status.Phase)
		for _, r := range p.Status.Nodes {
			line += fmt.Sprintf(" %s:%s", r.Name, r.Phase)
		}
		out = append(out, line)
	}
	for _, n := range w.nodes {
		if line := n.marks(); line != "" {
			out = append(out, n.name+line)
		}
	}
	return strings.Join(out, "; ")
}

// marks are what the controller has left on a Node.
func (n *node) marks() string {
	line := ""
	if n.asked {
		line += " asked " + n.request.Version
	}
	if n.unschedulable {
		line += " cordoned"
	}
	if n.cordonedBy != "" {
		line += " by " + n.cordonedBy
	}
	return line
}

// is settles and compares.
func (w *world) is(want string) {
	w.Helper()
	w.settle()
	if got := w.String(); got != want {
		w.Fatalf("\n got: %s\nwant: %s", got, want)
	}
}

// reason wants a text in what a plan says of a node; of the whole, if it is empty.
func (w *world) reason(plan, node, want string) {
	w.Helper()
	for _, p := range w.plans {
		if p.Name != plan {
			continue
		}
		got := p.Status.Message
		for _, r := range p.Status.Nodes {
			if r.Name == node {
				got = r.Reason
			}
		}
		if !strings.Contains(got, want) {
			w.Errorf("plan %s, node %q: %q does not contain %q", plan, node, got, want)
		}
		return
	}
	w.Fatalf("no plan %s", plan)
}

func (w *world) condition(p *Plan, kind string, status metav1.ConditionStatus, reason string) {
	w.Helper()
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			if c.Status != status || c.Reason != reason || c.ObservedGeneration != p.Generation {
				w.Errorf("condition %s is %+v, want %s, %s", kind, c, status, reason)
			}
			return
		}
	}
	w.Errorf("no condition %s", kind)
}

func selecting(pairs map[string]string) func(*Spec) {
	return func(s *Spec) { s.NodeSelector = &metav1.LabelSelector{MatchLabels: pairs} }
}
