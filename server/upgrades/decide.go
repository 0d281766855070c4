package upgrades

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/limpetio/limpet/internal/nodeupgrade"
	"github.com/limpetio/limpet/internal/release"
)

// state is what the controller decides from.
type state struct {
	now time.Time
	// server is the version that the server runs.
	server string
	// unsettled: the server's own upgrade has not been confirmed, so that it may still
	// go back to an older version.
	unsettled bool
	// served are the architectures for which the server can give out that version.
	served map[string]bool
	plans  []*Plan
	nodes  []*node
	// drained is what the last round of evictions has left, by drainKey.
	drained map[string]drained
}

// node is what matters of a Node.
type node struct {
	name, uid, arch string
	labels          labels.Set
	server          bool // a limpet server runs on it
	ready           bool
	unschedulable   bool
	// cordonedBy is the UID of the plan that has cordoned it.
	cordonedBy string
	// asked: there is a request annotation; request is what it says, zero if that
	// cannot be read.
	asked   bool
	request nodeupgrade.Request
	// report is zero if the agent has said nothing, or nothing that can be read.
	report nodeupgrade.Report
}

// drained is the outcome of a round of evictions.
type drained struct {
	// began is when this process first evicted pods of the node for the plan; the
	// machine's clock may jump meanwhile, so it is not on record.
	began time.Time
	done  bool
	left  string // which pods are still there, and why
	// never is why some pod must not be evicted at all, as the plan is.
	never string
}

// decision is what is to be done.
type decision struct {
	// statuses are those that differ from what was read, by the plan's name.
	statuses map[string]Status
	patches  []patch
	drains   []drain
}

// patch changes a Node; nil fields stay as they are.
type patch struct {
	node    string
	uid     string  // a Node that was made anew meanwhile is not meant
	request *string // "": removed
	cordon  *cordon
}

// cordon sets or removes the mark on an unschedulable node, and it with the mark.
type cordon struct {
	on   bool
	plan string // UID
}

func (p patch) empty() bool { return p.request == nil && p.cordon == nil }

// drain is a node whose pods are to be evicted now.
type drain struct {
	key  string // of the outcome in state.drained
	node string
	how  Drain
}

func drainKey(p *Plan, n *node) string { return string(p.UID) + "/" + n.uid }

// decide says what to do. It depends on nothing but s.
func decide(s state) decision {
	d := decision{statuses: map[string]Status{}}
	plans := slices.Clone(s.plans)
	slices.SortFunc(plans, func(a, b *Plan) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	nodes := slices.Clone(s.nodes)
	slices.SortFunc(nodes, func(a, b *node) int { return cmp.Compare(a.name, b.name) })

	claimed := map[string]string{} // node -> the plan that it belongs to
	followed := map[string]bool{}  // nodes that some plan has said what to do with
	for _, p := range plans {
		e := newEvaluation(&s, p, nodes)
		e.refuse(claimed)
		if e.refused == nil {
			for _, n := range e.selected {
				claimed[n.name] = p.Name
			}
		}
		status := e.status(nodes)
		if !sameStatus(p.Status, status) {
			d.statuses[p.Name] = status
		}
		d.drains = append(d.drains, e.drains...)
		for _, c := range e.patches {
			followed[c.node] = true
			if !c.empty() {
				d.patches = append(d.patches, c)
			}
		}
	}
	for _, n := range nodes {
		if !followed[n.name] {
			if c := abandon(n); !c.empty() {
				d.patches = append(d.patches, c)
			}
		}
	}
	return d
}

// abandon takes back what was asked of a node by a plan that is gone or does not
// select it any more; an agent that installs already cannot be stopped, so that
// its outcome is waited for.
func abandon(n *node) patch {
	c := patch{node: n.name, uid: n.uid}
	if n.asked && n.report.About(n.request.ID()).Phase == nodeupgrade.Installing {
		return c
	}
	c.take(n)
	return c
}

// take removes request and mark, as far as they are there.
func (c *patch) take(n *node) {
	if n.asked {
		c.request = new(string)
	}
	if n.cordonedBy != "" {
		c.cordon = &cordon{}
	}
}

// evaluation is one plan's part of decide.
type evaluation struct {
	*state
	plan     *Plan
	target   string
	selector labels.Selector
	selected []*node // by name
	refused  *refusal
	records  map[string]Record // of before, as far as they still count
	drains   []drain
	patches  []patch // one for each node that the plan has to do with
}

// refusal is why a plan is not carried out.
type refusal struct{ reason, message string }

func newEvaluation(s *state, p *Plan, nodes []*node) *evaluation {
	e := &evaluation{state: s, plan: p, target: p.Spec.Version}
	if e.target == "" {
		e.target = s.server
	}
	selector, err := metav1.LabelSelectorAsSelector(p.Spec.NodeSelector)
	switch {
	case err != nil:
		e.refused = &refusal{"BadSelector", fmt.Sprintf("nodeSelector: %v", err)}
		selector = labels.Nothing()
	case p.Spec.NodeSelector == nil:
		selector = labels.Everything()
	}
	e.selector = selector
	for _, n := range nodes {
		if selector.Matches(n.labels) {
			e.selected = append(e.selected, n)
		}
	}
	e.records = e.counting()
	return e
}

// counting are the records that still count. With another specification, or
// another version of the server that the plan follows, all begins anew, except that
// a node that has its turn keeps it: it cannot have it twice.
func (e *evaluation) counting() map[string]Record {
	old := e.plan.Status
	same := old.ObservedGeneration == e.plan.Generation && old.Version == e.target
	records := map[string]Record{}
	for _, r := range old.Nodes {
		if same || r.Phase.underWay() {
			records[r.Name] = r
		}
	}
	return records
}

// refuse finds what keeps the plan from being carried out.
func (e *evaluation) refuse(claimed map[string]string) {
	if e.refused != nil {
		return
	}
	order, err := release.CompareVersions(e.target, e.server)
	switch {
	case err != nil:
		e.refused = &refusal{"BadVersion", err.Error()}
		return
	case e.plan.Spec.URL != "" && e.plan.Spec.Version == "":
		e.refused = &refusal{"BadVersion", "a url needs a version, which says what is there"}
		return
	case e.unsettled:
		e.refused = &refusal{"ServerUpgrade", "the server's own upgrade is not over yet: agents follow when " + e.server + " has stayed well for a while"}
		return
	case order > 0:
		e.refused = &refusal{"NewerThanServer", fmt.Sprintf("agents must not be newer than the server, which runs %s: upgrade the server to %s first (limpet upgrade --to %s)",
			e.server, e.target, e.target)}
		return
	case e.plan.Spec.URL == "" && e.plan.Spec.Version == "" && len(e.served) == 0 && e.lacking():
		e.refused = &refusal{"NoRelease", fmt.Sprintf("the server has no signed release of the version %s that it runs: install or upgrade it from a release, or give version and url", e.server)}
		return
	}
	for _, n := range e.selected {
		if other := claimed[n.name]; other != "" && !n.server {
			e.refused = &refusal{"Overlap", fmt.Sprintf("node %s belongs to plan %s already, which is older: change that one, or select other nodes", n.name, other)}
			return
		}
	}
}

// lacking: there is an agent that runs another version.
func (e *evaluation) lacking() bool {
	return slices.ContainsFunc(e.selected, func(n *node) bool {
		return !n.server && n.report.Version != "" && n.report.Version != e.target
	})
}

// request is what is asked of a node.
func (e *evaluation) request(n *node) nodeupgrade.Request {
	spec := e.plan.Spec
	return nodeupgrade.Request{
		Node: n.name, Plan: e.plan.Name, UID: string(e.plan.UID), Generation: e.plan.Generation,
		Version: e.target, URL: spec.URL, FromServer: e.fromServer(n),
		Timeout: nodeupgrade.Duration(within(spec.Timeout)),
	}
}

// fromServer: the server gives out the release itself.
func (e *evaluation) fromServer(n *node) bool {
	return e.plan.Spec.URL == "" && e.target == e.server && e.served[n.arch]
}

// ours: the request on the node is of this plan, of whichever generation.
func (e *evaluation) ours(n *node) bool { return n.asked && n.request.UID == string(e.plan.UID) }
