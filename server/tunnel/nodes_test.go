package tunnel

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// testNode is a Node as a kubelet registers it; age orders the nodes.
func testNode(name string, age int, podCIDRs []string, addrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(time.Unix(1e9-int64(age), 0)),
	}}
	n.Spec.PodCIDRs = podCIDRs
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = 10250
	for _, a := range addrs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
	}
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: name})
	return n
}

func TestFind(t *testing.T) {
	t.Parallel()
	liar := testNode("liar", 1, []string{"10.42.1.0/24"}, "10.0.0.2")
	other := testNode("other-port", 5, nil, "10.0.0.4")
	other.Status.DaemonEndpoints.KubeletEndpoint.Port = 20250
	old := testNode("old-field", 6, nil, "10.0.0.5")
	old.Spec.PodCIDR = "10.42.5.0/24"
	var nodes []node
	for _, n := range []*corev1.Node{
		liar,
		testNode("n2", 10, []string{"10.42.1.0/24", "fd00:42:0:1::/64"}, "10.0.0.2", "fd00::2"),
		testNode("n3", 9, []string{"10.42.2.0/24"}, "10.0.0.3"),
		other, old,
		testNode("broken", 8, []string{"nonsense"}, "nonsense"),
	} {
		nodes = append(nodes, newNode(n))
	}
	direct := route{}
	for address, want := range map[string]route{
		"10.0.0.3:10250":          {"n3", "n3:10250"},
		"n3:10250":                {"n3", "n3:10250"},
		"[fd00::2]:10250":         {"n2", "n2:10250"},
		"[::ffff:10.0.0.3]:10250": {"n3", "n3:10250"},
		"10.42.2.7:8443":          {"n3", "10.42.2.7:8443"},
		"10.42.2.7:10250":         {"n3", "10.42.2.7:10250"},
		"[fd00:42:0:1::7]:8443":   {"n2", "[fd00:42:0:1::7]:8443"},
		"10.42.5.9:80":            {"old-field", "10.42.5.9:80"},
		"10.0.0.4:20250":          {"other-port", "other-port:20250"},
		// The address and the range that a younger node claims, too.
		"10.0.0.2:10250": {"n2", "n2:10250"},
		"10.42.1.4:80":   {"n2", "10.42.1.4:80"},
		"liar:10250":     {"liar", "liar:10250"},
		// Everything else is none of the tunnels' business.
		"10.0.0.4:10250":          direct,
		"10.0.0.3:22":             direct,
		"n3:22":                   direct,
		"n4:10250":                direct,
		"10.43.0.1:443":           direct,
		"169.254.169.254:80":      direct,
		"webhook.example.com:443": direct,
		"10.42.2.7":               direct,
		"10.42.2.7:http":          direct,
		"":                        direct,
	} {
		if got := find(nodes, address); got != want {
			t.Errorf("find(%q) = %+v, want %+v", address, got, want)
		}
	}
}

func TestNodeTable(t *testing.T) {
	t.Parallel()
	var deleted []string
	table := &nodeTable{nodes: map[string]node{}, deleted: func(name string) { deleted = append(deleted, name) }}
	h := table.handler()
	first := testNode("n2", 1, []string{"10.42.1.0/24"}, "10.0.0.2")
	h.OnAdd(first, true)
	moved := testNode("n2", 1, []string{"10.42.1.0/24"}, "10.0.0.9")
	h.OnUpdate(first, moved)
	if got := table.find("10.0.0.9:10250").node; got != "n2" || len(deleted) != 0 {
		t.Errorf("after the address changed: %q, deleted %v", got, deleted)
	}
	reborn := testNode("n2", 0, []string{"10.42.7.0/24"}, "10.0.0.9")
	reborn.UID = "another"
	h.OnUpdate(moved, reborn)
	if len(deleted) != 1 || !table.has("n2") || table.find("10.42.1.1:80").node != "" {
		t.Errorf("after deletion and creation in one step: deleted %v, %+v", deleted, table.nodes)
	}
	h.OnDelete(reborn)
	if len(deleted) != 2 || table.has("n2") {
		t.Errorf("after deletion: deleted %v, %+v", deleted, table.nodes)
	}
}
