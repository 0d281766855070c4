package nodectl

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/limpetio/limpet/internal/noderecord"
)

// The states of a node.
const (
	stateReady    = "Ready"
	stateNotReady = "NotReady"
	// stateUnreachable: its kubelet has not been heard of for long.
	stateUnreachable = "Unreachable"
	// stateJoining: its kubelet has never been heard of.
	stateJoining = "Joining"
)

const (
	roleServer, roleAgent = "server", "agent"
	rolePrefix            = "node-role.kubernetes.io/"
)

// listed is a node as list shows it.
type listed struct {
	Name  string `json:"name"`
	State string `json:"state"` // Ready, NotReady, Unreachable or Joining
	// Cordoned: no new pods come to it.
	Cordoned bool `json:"cordoned"`
	// Roles begin with server or agent; labels node-role.kubernetes.io/ follow.
	Roles             []string  `json:"roles"`
	Addresses         []string  `json:"addresses"`
	ExternalAddresses []string  `json:"externalAddresses,omitempty"`
	Created           time.Time `json:"created"`
	// Kubernetes is the kubelet's version; empty while it is joining.
	Kubernetes string `json:"kubernetes,omitempty"`
	// LastSeen is when the kubelet last reported; missing if it never did.
	LastSeen *time.Time `json:"lastSeen,omitempty"`
	// Problems are what the node itself says is wrong, in sentences.
	Problems []string `json:"problems,omitempty"`
	// RejoinUntil is until when another machine may take the name.
	RejoinUntil *time.Time `json:"rejoinUntil,omitempty"`
}

// List prints the nodes, servers first.
func (c Control) List(ctx context.Context, asJSON bool) error {
	s, err := c.connect()
	if err != nil {
		return err
	}
	nodes, err := s.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes: %w", s.explain(err))
	}
	leases, err := s.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list node leases: %w", s.explain(err))
	}
	records, err := s.client.CoreV1().Secrets(noderecord.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("type", string(noderecord.SecretType)).String(),
	})
	if err != nil {
		return fmt.Errorf("list the identity records of nodes: %w", s.explain(err))
	}
	now := time.Now()
	all := table(nodes.Items, leases.Items, records.Items, now)
	if asJSON {
		out := json.NewEncoder(c.Out)
		out.SetIndent("", "  ")
		return out.Encode(all)
	}
	return printTable(c.Out, all, now)
}

// table joins what the cluster knows of each node.
func table(nodes []corev1.Node, leases []coordinationv1.Lease, records []corev1.Secret, now time.Time) []listed {
	seen := map[string]time.Time{}
	for _, l := range leases {
		if l.Spec.RenewTime != nil {
			seen[l.Name] = l.Spec.RenewTime.Time
		}
	}
	rejoin := map[string]time.Time{}
	for i := range records {
		node := noderecord.NodeOf(&records[i])
		if r := noderecord.FromSecret(node, &records[i]); node != "" && r.RejoinAllowed(now) {
			rejoin[node] = r.RejoinUntil
		}
	}
	all := make([]listed, 0, len(nodes))
	for i := range nodes {
		row := show(&nodes[i], seen[nodes[i].Name])
		if until, ok := rejoin[row.Name]; ok {
			row.RejoinUntil = &until
		}
		all = append(all, row)
	}
	slices.SortFunc(all, func(a, b listed) int {
		if a.Roles[0] != b.Roles[0] {
			return -strings.Compare(a.Roles[0], b.Roles[0])
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

// show describes a node; renewed is the time of its lease, zero without one.
func show(n *corev1.Node, renewed time.Time) listed {
	row := listed{
		Name: n.Name, Cordoned: n.Spec.Unschedulable, Roles: roles(n), Addresses: []string{},
		Created: n.CreationTimestamp.Time, Kubernetes: n.Status.NodeInfo.KubeletVersion,
	}
	for _, a := range n.Status.Addresses {
		switch a.Type {
		case corev1.NodeInternalIP:
			row.Addresses = append(row.Addresses, a.Address)
		case corev1.NodeExternalIP:
			row.ExternalAddresses = append(row.ExternalAddresses, a.Address)
		case corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS:
		}
	}
	row.State = state(n)
	if row.State != stateJoining {
		// The lease is renewed every ten seconds, the status every few minutes.
		last := renewed
		for _, c := range n.Status.Conditions {
			if c.LastHeartbeatTime.After(last) {
				last = c.LastHeartbeatTime.Time
			}
		}
		if !last.IsZero() {
			row.LastSeen = &last
		}
	}
	for _, c := range n.Status.Conditions {
		if problem := problemOf(c, row.State); problem != "" {
			row.Problems = append(row.Problems, problem)
		}
	}
	return row
}

func state(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		switch {
		case c.Status == corev1.ConditionTrue:
			return stateReady
		case n.Status.NodeInfo.KubeletVersion == "":
			return stateJoining // limpet creates a Node before its kubelet runs
		case c.Status == corev1.ConditionFalse:
			return stateNotReady
		}
		return stateUnreachable
	}
	return stateJoining
}

// problemOf is a sentence about a condition that is not as it should be.
func problemOf(c corev1.NodeCondition, state string) string {
	switch {
	case state == stateUnreachable || state == stateJoining:
		return "" // nobody knows
	case c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue, c.Type != corev1.NodeReady && c.Status == corev1.ConditionTrue:
		return fmt.Sprintf("%s (%s): %s", c.Type, c.Reason, strings.Join(strings.Fields(c.Message), " "))
	}
	return ""
}

func roles(n *corev1.Node) []string {
	list := []string{roleAgent}
	if isServer(n) {
		list[0] = roleServer
	}
	var more []string
	for label := range n.Labels {
		if role, ok := strings.CutPrefix(label, rolePrefix); ok && label != serverRole && role != "" {
			more = append(more, role)
		}
	}
	slices.Sort(more)
	return append(list, more...)
}

// printTable prints nodes for people, and below them what is wrong with which.
func printTable(out io.Writer, all []listed, now time.Time) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "There are no nodes. A machine joins with `limpet agent`; `limpet token create --print-join` prints the command.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tROLE\tADDRESS\tAGE\tVERSION\tLAST SEEN")
	for _, n := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, stateText(n), strings.Join(n.Roles, ","),
			orDash(strings.Join(append(slices.Clone(n.Addresses), n.ExternalAddresses...), ",")),
			age(n.Created, now), orDash(n.Kubernetes), lastSeen(n, now))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range all {
		for _, problem := range n.Problems {
			fmt.Fprintf(out, "%s: %s\n", n.Name, problem)
		}
		if n.RejoinUntil != nil {
			fmt.Fprintf(out, "%s: another machine may take the name until %s\n", n.Name, clock(*n.RejoinUntil))
		}
	}
	return nil
}

func stateText(n listed) string {
	if n.Cordoned {
		return n.State + ",cordoned"
	}
	return n.State
}

// lastSeen is of interest when the node does not answer.
func lastSeen(n listed, now time.Time) string {
	switch {
	case n.State == stateReady:
		return "now"
	case n.LastSeen == nil:
		return "never"
	}
	return age(*n.LastSeen, now) + " ago"
}

func age(t, now time.Time) string { return duration.HumanDuration(max(now.Sub(t), 0)) }

func clock(t time.Time) string { return t.Local().Format("2006-01-02 15:04 MST") }

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
