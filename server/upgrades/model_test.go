package upgrades

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/limpetio/limpet/internal/nodeupgrade"
)

// model is a cluster whose watches lag behind: the controller decides from copies,
// each of which is refreshed at any time on its own.
type model struct {
	*world
	rand    *rand.Rand
	version int // of the plan
	seen    state
	seenAt  int // the version of the plan that was seen
	log     []string
}

func copyNode(n *node) *node { c := *n; return &c }

// look refreshes some of what the controller sees.
func (m *model) look() {
	if m.rand.IntN(4) == 0 {
		p := *m.plans[0]
		m.seen.plans, m.seenAt = []*Plan{&p}, m.version
	}
	for i, n := range m.nodes {
		if m.rand.IntN(2) == 0 {
			m.seen.nodes[i] = copyNode(n)
		}
	}
}

// control is one pass of the controller, which may be killed in the middle of it.
func (m *model) control() {
	d := decide(m.seen)
	killed := m.rand.IntN(5) == 0
	if s, ok := d.statuses["site"]; ok && m.seenAt == m.version { // else a conflict
		m.plans[0].Status = m.roundTrip(m.plans[0], s)
		m.version++
		m.log = append(m.log, "status "+m.String())
	}
	for _, c := range d.patches {
		if killed && m.rand.IntN(2) == 0 {
			return
		}
		m.node(c.node).apply(c)
		m.log = append(m.log, "patch "+m.String())
	}
}

// act is one step of one agent.
func (m *model) act(failures bool) {
	n := m.nodes[m.rand.IntN(len(m.nodes))]
	if m.rand.IntN(3) == 0 { // the power at the site is bad
		n.ready = !n.ready
	}
	if !n.asked {
		n.report = nodeupgrade.Report{Version: n.report.Version}
		return
	}
	switch n.report.About(n.request.ID()).Phase {
	case "":
		m.says(n.name, nodeupgrade.Preparing, "")
	case nodeupgrade.Preparing:
		m.says(n.name, nodeupgrade.Installing, "")
		n.ready = false
	case nodeupgrade.Installing:
		n.ready = true
		if failures && m.rand.IntN(4) == 0 {
			m.says(n.name, nodeupgrade.Failed, "no")
		} else {
			m.says(n.name, nodeupgrade.Upgraded, "")
		}
	case nodeupgrade.Upgraded, nodeupgrade.Failed, nodeupgrade.Refused:
		n.ready = m.rand.IntN(5) > 0
		return
	}
	m.log = append(m.log, "agent "+n.name+" "+string(n.report.Phase))
}

// atWork are the nodes on which something may be going on.
func (m *model) atWork() (names []string) {
	for _, n := range m.nodes {
		if n.asked && !n.report.About(n.request.ID()).Phase.Final() {
			names = append(names, n.name)
		}
	}
	return names
}

// TestStaleWatches: whatever the controller has not seen yet, and wherever it is
// killed, no more nodes are at it than the plan allows, none is begun with after a
// failure was on record, and all comes to an end that leaves no marks behind.
func TestStaleWatches(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		m := newModel(t, seed)
		failures := seed%2 == 0
		var stopped []string // who was at it when the plan failed
		for range 500 {
			m.look()
			m.control()
			m.act(failures)
			if at := m.atWork(); len(at) > m.plans[0].Spec.Concurrency {
				t.Fatalf("seed %d: %v are at it: %s\n%s", seed, at, m, m.tail())
			}
			if m.plans[0].Status.Phase != PlanFailed {
				continue
			}
			if stopped == nil {
				stopped = append([]string{""}, m.underWay()...)
			}
			for _, name := range m.atWork() {
				if !slices.Contains(stopped, name) {
					t.Fatalf("seed %d: %s was begun with after a failure: %s\n%s", seed, name, m, m.tail())
				}
			}
		}
		m.end(seed)
	}
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{world: newWorld(t, "n1", "n2", "n3", "n4", "n5"), rand: rand.New(rand.NewPCG(seed, 1))}
	m.plan("site", func(s *Spec) { s.Concurrency, s.Cordon = 1+int(seed%3), seed%5 == 0 })
	m.seen = m.state
	m.seen.nodes, m.seen.plans = nil, nil
	for _, n := range m.nodes {
		m.seen.nodes = append(m.seen.nodes, copyNode(n))
	}
	p := *m.plans[0]
	m.seen.plans = []*Plan{&p}
	return m
}

func (m *model) underWay() (names []string) {
	for _, r := range m.plans[0].Status.Nodes {
		if r.Phase.underWay() {
			names = append(names, r.Name)
		}
	}
	return names
}

// end: all agents are well again and the controller sees everything.
func (m *model) end(seed uint64) {
	for _, n := range m.nodes {
		n.ready = true
	}
	m.settle()
	phase := m.plans[0].Status.Phase
	if phase != Complete && phase != PlanFailed {
		m.Fatalf("seed %d: ends as %s\n%s", seed, m, m.tail())
	}
	for _, n := range m.nodes {
		if marks := n.marks(); marks != "" {
			m.Fatalf("seed %d: node %s is left %s: %s\n%s", seed, n.name, marks, m, m.tail())
		}
	}
}

func (m *model) tail() string {
	text := ""
	for _, line := range m.log[max(0, len(m.log)-30):] {
		text += fmt.Sprintln(line)
	}
	return text
}
