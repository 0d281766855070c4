package dnsendpoints

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpetio/limpet/internal/dns"
)

// node returns a Node that says of itself that it serves DNS at its addresses.
func node(name string, age int, addrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(int64(1000-age), 0),
		Annotations: map[string]string{dns.Annotation: `{"addresses":["` + strings.Join(addrs, `","`) + `"],"port":10053,"metricsPort":9153}`}}}
	for _, a := range addrs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	return n
}

func with(n *corev1.Node, mod func(*corev1.Node)) *corev1.Node { mod(n); return n }

func says(n *corev1.Node, annotation string) *corev1.Node {
	n.Annotations[dns.Annotation] = annotation
	return n
}

func condition(n *corev1.Node, status corev1.ConditionStatus) *corev1.Node {
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status}}
	return n
}

var service = corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: serviceName, Namespace: namespace, UID: "u1"}}

func names(list []*discoveryv1.EndpointSlice) []string {
	var out []string
	for _, es := range list {
		out = append(out, es.Name)
	}
	return out
}

func TestPlanNodes(t *testing.T) {
	t.Parallel()
	evil := `{"addresses":["203.0.113.66"],"port":53}`
	long := strings.Repeat("n", 253)
	tests := map[string]struct {
		nodes   []*corev1.Node
		want    string // name=address, in order
		refused string // nodes
	}{
		"no nodes":         {},
		"one":              {nodes: []*corev1.Node{node("n1", 1, "192.0.2.1")}, want: "kube-dns-ipv4-n1=192.0.2.1"},
		"dual-stack":       {nodes: []*corev1.Node{node("n1", 1, "192.0.2.1", "2001:db8::1")}, want: "kube-dns-ipv4-n1=192.0.2.1 kube-dns-ipv6-n1=2001:db8::1"},
		"one of a family":  {nodes: []*corev1.Node{node("n1", 1, "192.0.2.1", "192.0.2.7")}, want: "kube-dns-ipv4-n1=192.0.2.1"},
		"without DNS":      {nodes: []*corev1.Node{with(node("n1", 1, "192.0.2.1"), func(n *corev1.Node) { n.Annotations = nil })}},
		"not heard of":     {nodes: []*corev1.Node{condition(node("n1", 1, "192.0.2.1"), corev1.ConditionUnknown)}},
		"starting":         {nodes: []*corev1.Node{condition(node("n1", 1, "192.0.2.1"), corev1.ConditionFalse)}, want: "kube-dns-ipv4-n1=192.0.2.1"},
		"foreign address":  {nodes: []*corev1.Node{says(node("n1", 1, "192.0.2.1"), evil), node("n2", 1, "192.0.2.2")}, want: "kube-dns-ipv4-n2=192.0.2.2", refused: "n1"},
		"garbage":          {nodes: []*corev1.Node{says(node("n1", 1, "192.0.2.1"), "{")}, refused: "n1"},
		"address of other": {nodes: []*corev1.Node{node("a", 1, "192.0.2.1"), node("b", 2, "192.0.2.1")}, want: "kube-dns-ipv4-b=192.0.2.1", refused: "a"},
		"address of the server": {nodes: []*corev1.Node{node("a", 9, "192.0.2.1"),
			with(node("b", 2, "192.0.2.1"), func(n *corev1.Node) { n.Labels = map[string]string{controlPlane: "true"} })},
			want: "kube-dns-ipv4-b=192.0.2.1", refused: "a"},
		"only a host name": {nodes: []*corev1.Node{with(node("n1", 1, "192.0.2.1"), func(n *corev1.Node) { n.Status.Addresses[0].Type = corev1.NodeHostName })}, refused: "n1"},
		"names that look alike": {nodes: []*corev1.Node{node("x", 1, "2001:db8::1"), node("ipv6-x", 1, "192.0.2.2")},
			want: "kube-dns-ipv4-ipv6-x=192.0.2.2 kube-dns-ipv6-x=2001:db8::1"},
		"long name": {nodes: []*corev1.Node{node(long, 1, "192.0.2.1")}, want: "kube-dns-ipv4-" + short(long) + "=192.0.2.1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := plan(state{service: &service, nodes: tt.nodes})
			var got []string
			for _, es := range a.create {
				got = append(got, es.Name+"="+es.Endpoints[0].Addresses[0])
				e := es.Endpoints[0]
				if len(es.Name) > 253 || e.Hints == nil || len(e.Hints.ForNodes) != 1 || e.Hints.ForNodes[0].Name != *e.NodeName || es.OwnerReferences[0].UID != "u1" {
					t.Errorf("slice %+v", es)
				}
			}
			if g := strings.Join(got, " "); g != tt.want {
				t.Errorf("got  %s\nwant %s", g, tt.want)
			}
			if g := strings.Join(slices.Sorted(maps.Keys(a.refused)), " "); g != tt.refused {
				t.Errorf("refused %q, want %q: %v", g, tt.refused, a.refused)
			}
			// What has been created needs nothing more.
			if b := plan(state{service: &service, nodes: tt.nodes, slices: a.create}); len(b.create)+len(b.update)+len(b.remove) != 0 {
				t.Errorf("not settled: %+v", b)
			}
		})
	}
}

func TestPlanChanges(t *testing.T) {
	t.Parallel()
	nodes := []*corev1.Node{node("n1", 2, "192.0.2.1"), node("n2", 1, "192.0.2.2")}
	have := plan(state{service: &service, nodes: nodes}).create
	moved := service
	moved.UID = "u2"
	old := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: "kube-dns-n1"}, AddressType: discoveryv1.AddressTypeIPv4}
	tests := map[string]struct {
		state                  state
		create, update, remove string
	}{
		"nothing":        {state: state{&service, nodes, have}},
		"node is gone":   {state: state{&service, nodes[:1], have}, remove: "kube-dns-ipv4-n2"},
		"no Service":     {state: state{nil, nodes, have}, remove: "kube-dns-ipv4-n1 kube-dns-ipv4-n2"},
		"Service anew":   {state: state{&moved, nodes, have}, update: "kube-dns-ipv4-n1 kube-dns-ipv4-n2"},
		"slice is gone":  {state: state{&service, nodes, have[1:]}, create: "kube-dns-ipv4-n1"},
		"by other names": {state: state{&service, nodes, append([]*discoveryv1.EndpointSlice{old}, have...)}, remove: "kube-dns-n1"},
		"address changed": {state: state{&service, []*corev1.Node{node("n1", 2, "192.0.2.9"), nodes[1]}, have},
			update: "kube-dns-ipv4-n1"},
		"tampered with": {state: state{&service, nodes, []*discoveryv1.EndpointSlice{have[0], func() *discoveryv1.EndpointSlice {
			es := have[1].DeepCopy()
			es.Endpoints[0].Hints = nil
			return es
		}()}}, update: "kube-dns-ipv4-n2"},
		"of another type": {state: state{&service, nodes, []*discoveryv1.EndpointSlice{have[0], func() *discoveryv1.EndpointSlice {
			es := have[1].DeepCopy()
			es.AddressType = discoveryv1.AddressTypeIPv6
			return es
		}()}}, remove: "kube-dns-ipv4-n2"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := plan(tt.state)
			for _, c := range []struct{ got, want string }{
				{strings.Join(names(a.create), " "), tt.create},
				{strings.Join(names(a.update), " "), tt.update},
				{strings.Join(a.remove, " "), tt.remove},
			} {
				if c.got != c.want {
					t.Errorf("got %q, want %q in %+v", c.got, c.want, a)
				}
			}
		})
	}
}

func TestSeniority(t *testing.T) {
	t.Parallel()
	a, b := node("a", 0), node("b", 0)
	a.CreationTimestamp = metav1.NewTime(time.Unix(2, 0))
	b.CreationTimestamp = metav1.NewTime(time.Unix(1, 0))
	if got := bySeniority([]*corev1.Node{a, b}); got[0].Name != "b" {
		t.Errorf("the younger node comes first")
	}
}
