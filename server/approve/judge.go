package approve

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/limpetio/limpet/internal/noderecord"
)

const (
	reasonApproved = "NodeApproved"
	reasonWaiting  = "NodeAddressesPending"

	// nodeAppears is how long a name is kept for the machine that took it
	// before its Node is there.
	nodeAppears = 10 * time.Minute
	// addressesAppear is how long a Node may take to show the addresses that
	// its kubelet asks to serve under.
	addressesAppear = 5 * time.Minute
)

// State is what the cluster knows at the moment of the decision.
type State struct {
	Now time.Time
	// Node is the Node of the request's name; nil if there is none.
	Node *corev1.Node
	// Record is the record of that name; nil if there is none.
	Record *noderecord.Record
	// Nodes are all Nodes; only a Serving request needs them.
	Nodes []*corev1.Node
}

// Judge decides a request that Inspect found well-formed.
func (r Request) Judge(policy Policy, s State) Decision {
	switch r.Kind {
	case Join:
		return r.judgeJoin(policy, s)
	case Serving:
		return r.judgeServing(policy, s)
	case Renewal:
		return r.judgeOwn(s, fmt.Sprintf("Node %s renews its own certificate.", r.Node))
	case Agent:
		return r.judgeOwn(s, fmt.Sprintf("Node %s asks for an agent of its own.", r.Node))
	}
	return *ignore()
}

// judgeJoin gives a free name to the key that asks, and a taken one to the key
// that has it.
func (r Request) judgeJoin(policy Policy, s State) Decision {
	record := noderecord.Record{Node: r.Node, Fingerprint: r.Fingerprint, Joined: s.Now}
	switch {
	case r.Node == policy.OwnNode:
		return Decision{Verdict: Deny, Reason: noderecord.ReasonNameTaken, Message: fmt.Sprintf(
			"The node name %s is that of the server itself. Give this machine another name: --node-name, or --with-node-id for machines that all have the same host name.", r.Node)}
	case s.Record != nil && s.Record.Fingerprint == r.Fingerprint:
		d := approve("The machine proved by its identity key that it is node %s.", r.Node)
		if s.Node == nil || !s.Record.RejoinUntil.IsZero() || !s.Record.Gone.IsZero() {
			d.Record = &record
		}
		return d
	case s.Record != nil && s.Record.RejoinAllowed(s.Now):
		d := approve("Node %s was allowed to rejoin with a new identity key.", r.Node)
		d.Record = &record
		return d
	case s.Node != nil, s.Record != nil && recent(s.Record.Joined, s.Now):
		return r.taken()
	}
	d := approve("The node name %s was free.", r.Node)
	d.Record = &record
	return d
}

// recent also holds for a time a little ahead, after the clock was set back.
func recent(t, now time.Time) bool {
	age := now.Sub(t)
	return age < nodeAppears && age > -nodeAppears
}

func (r Request) taken() Decision {
	return Decision{Verdict: Deny, Reason: noderecord.ReasonNameTaken, Message: fmt.Sprintf(
		"The node name %[1]s belongs to another machine. If this is another machine, give it another name: --node-name, or --with-node-id for machines that all have the same host name. "+
			"If it is %[1]s itself, set up anew, let it in with `limpet node rejoin %[1]s` on the server and start it again.", r.Node)}
}

// judgeOwn approves what a node asks for itself; that it is the node is proved
// by the certificate it asked with. A proof of the identity key says more: it
// is recorded if nothing is (as when a snapshot from before the node joined was
// restored), and one that is not of the recorded key comes from a machine whose
// name was given to another.
func (r Request) judgeOwn(s State, message string) Decision {
	d := approve("%s", message)
	switch {
	case r.Fingerprint == "":
	case s.Record == nil:
		d.Record = &noderecord.Record{Node: r.Node, Fingerprint: r.Fingerprint, Joined: s.Now}
	case s.Record.Fingerprint == "":
		adopted := *s.Record // with a permission to rejoin, which stays
		adopted.Fingerprint = r.Fingerprint
		d.Record = &adopted
	case s.Record.Fingerprint != r.Fingerprint:
		return r.taken()
	}
	return d
}

// judgeServing compares the names with those that the Node has.
func (r Request) judgeServing(policy Policy, s State) Decision {
	for _, name := range r.names {
		if name == r.Node {
			continue // it was checked when the node joined
		}
		if problem := policy.servingName(name); problem != "" {
			return *refuse("Node %s may not serve as %s: %s.", r.Node, name, problem)
		}
		if slices.ContainsFunc(s.Nodes, func(n *corev1.Node) bool { return n.Name == name }) {
			return *refuse("Node %s may not serve as %s: that is another node.", r.Node, name)
		}
	}
	for _, addr := range r.addrs {
		if problem := policy.address(addr); problem != "" {
			return *refuse("Node %s may not serve on %s: %s.", r.Node, addr, problem)
		}
	}
	if missing := r.missing(s); missing != "" {
		until := r.created.Add(addressesAppear)
		if s.Now.Before(until) {
			return Decision{Verdict: Wait, Reason: reasonWaiting, Message: missing, Until: until}
		}
		return *refuse("%s", missing)
	}
	return r.judgeOwn(s, fmt.Sprintf("Node %s serves under its own names and addresses.", r.Node))
}

// servingName says why a node may not serve under a name other than its own.
func (p Policy) servingName(name string) string {
	if name == p.OwnNode {
		return "it is the name of the server"
	}
	return p.hostName(name)
}

// missing says which name or address is not, or not only, the Node's; "" if all are.
func (r Request) missing(s State) string {
	if s.Node == nil {
		return fmt.Sprintf("There is no Node %s whose addresses the certificate could have.", r.Node)
	}
	names, addrs := addressesOf(s.Node)
	for _, name := range r.names {
		if name != r.Node && !slices.Contains(names, name) {
			return fmt.Sprintf("Node %s asks to serve as %s, which is not among the host names in its status.", r.Node, name)
		}
	}
	for _, addr := range r.addrs {
		if !slices.Contains(addrs, addr) {
			return fmt.Sprintf("Node %s asks to serve on %s, which is not among the addresses in its status.", r.Node, addr)
		}
	}
	for _, other := range s.Nodes {
		if other.Name == r.Node {
			continue
		}
		names, addrs := addressesOf(other)
		for _, name := range r.names {
			if name != r.Node && slices.Contains(names, name) {
				return shared(r.Node, name, other.Name)
			}
		}
		for _, addr := range r.addrs {
			if slices.Contains(addrs, addr) && !bothExternal(addr, s.Node, other) {
				return shared(r.Node, addr.String(), other.Name)
			}
		}
	}
	return ""
}

func shared(node, what, other string) string {
	return fmt.Sprintf("Nodes %s and %s both have %s. If %[2]s is not in use any more, remove it with `limpet node remove %[2]s`.", node, other, what)
}

// bothExternal tells whether the address is one at which both Nodes are reached from
// outside only. Machines behind one router share that of the router; the API server
// calls none there.
func bothExternal(addr netip.Addr, a, b *corev1.Node) bool {
	return isExternal(addr, a) && isExternal(addr, b)
}

func isExternal(addr netip.Addr, n *corev1.Node) bool {
	external := false
	for _, a := range n.Status.Addresses {
		if got, err := netip.ParseAddr(a.Address); err == nil && got.Unmap() == addr {
			if a.Type != corev1.NodeExternalIP {
				return false
			}
			external = true
		}
	}
	return external
}

// addressesOf are the host names and the addresses in a Node's status.
func addressesOf(n *corev1.Node) (names []string, addrs []netip.Addr) {
	for _, a := range n.Status.Addresses {
		if addr, err := netip.ParseAddr(a.Address); err == nil {
			addrs = append(addrs, addr.Unmap())
			continue
		}
		names = append(names, strings.ToLower(a.Address))
	}
	return names, addrs
}

func approve(format string, args ...any) Decision {
	return Decision{Verdict: Approve, Reason: reasonApproved, Message: fmt.Sprintf(format, args...)}
}
