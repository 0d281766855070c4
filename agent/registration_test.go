package agent

import (
	"net/netip"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpetio/limpet/internal/config"
)

func TestNodeIsWhatTheKubeletWouldRegister(t *testing.T) {
	t.Parallel()
	r := &Registration{
		Config: config.Node{
			NodeName: "box", NodeLabels: []string{"site=mast-7"}, NodeTaints: []string{"reserved=yes:NoSchedule", "bare:NoExecute"},
			NodeIP: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")},
		},
		Roles: map[string]string{"role": "true"},
	}
	n := r.node()
	for key, want := range map[string]string{"site": "mast-7", "role": "true", corev1.LabelHostname: "box", corev1.LabelOSStable: "linux"} {
		if n.Labels[key] != want {
			t.Errorf("label %s is %q, want %q", key, n.Labels[key], want)
		}
	}
	if n.Spec.PodCIDR != "" {
		t.Errorf("it took range %s", n.Spec.PodCIDR)
	}
	if want := []corev1.Taint{{Key: "reserved", Value: "yes", Effect: "NoSchedule"}, {Key: "bare", Effect: "NoExecute"}}; !reflect.DeepEqual(n.Spec.Taints, want) {
		t.Errorf("taints are %+v", n.Spec.Taints)
	}
	if got := addressesOf(n, corev1.NodeInternalIP); !reflect.DeepEqual(got, []string{"192.0.2.7", "2001:db8::7"}) {
		t.Errorf("addresses are %v", got)
	}
}

func TestAddressesOfANodeThatIsThere(t *testing.T) {
	t.Parallel()
	addrs := func(all ...string) (out []netip.Addr) {
		for _, a := range all {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	registered := func(internal, external []netip.Addr) *Registration {
		return &Registration{Config: config.Node{NodeName: "box", NodeIP: internal, NodeExternalIP: external}}
	}
	there := registered(addrs("192.0.2.7"), addrs("198.51.100.1")).node()
	for name, c := range map[string]struct {
		internal, external []netip.Addr
		want               bool
	}{
		"the same":                 {addrs("192.0.2.7"), addrs("198.51.100.1"), true},
		"a new address":            {addrs("192.0.2.8"), addrs("198.51.100.1"), false},
		"a new external address":   {addrs("192.0.2.7"), addrs("198.51.100.2"), false},
		"another's external one":   {addrs("192.0.2.7"), nil, true},
		"one of each family":       {addrs("192.0.2.7", "2001:db8::7"), nil, false},
		"a further external one":   {addrs("192.0.2.7"), addrs("198.51.100.1", "2001:db8::1"), false},
		"the external one, inside": {addrs("198.51.100.1"), nil, false},
	} {
		if got := registered(c.internal, c.external).hasAddresses(there); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestMissingLabels(t *testing.T) {
	t.Parallel()
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "1"}}}
	if p := missingLabels(n, map[string]string{"a": "1"}); p != nil {
		t.Errorf("patch is %s", p)
	}
	if p := missingLabels(n, map[string]string{"a": "2"}); string(p) != `{"metadata":{"labels":{"a":"2"}}}` {
		t.Errorf("patch is %s", p)
	}
}

func TestPartUser(t *testing.T) {
	t.Parallel()
	if user, group := PartUser(NetworkPart, "n2"); user != "limpet:network:n2" || group != "limpet:network" {
		t.Errorf("got %s in %s", user, group)
	}
}
