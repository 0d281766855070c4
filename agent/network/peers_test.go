package network

import (
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestReadPeers(t *testing.T) {
	t.Parallel()
	dualStack := published("192.0.2.7")
	dualStack[annotationPublicIPv6], dualStack[annotationDataV6] = "2001:db8::7", `{"VtepMAC":"aa:bb:cc:dd:ee:f6"}`
	change := func(key, value string) map[string]string {
		a := maps.Clone(dualStack)
		if a[key] = value; value == "" {
			delete(a, key)
		}
		return a
	}
	both := []string{"10.42.1.0/24", "fd00:42:0:1::/64"}
	tests := []struct {
		name        string
		cidrs       []string
		annotations map[string]string
		v4          bool
		public      string // empty: no peer
		refused     bool
	}{
		{"IPv4", both, dualStack, true, "192.0.2.7", false},
		{"IPv6", both, dualStack, false, "2001:db8::7", false},
		{"not managed", both, change(annotationManaged, ""), true, "", false},
		{"no pod range yet", nil, dualStack, true, "", false},
		{"has one family only, asked for that", both[:1], published("192.0.2.7"), true, "192.0.2.7", false},
		{"has one family only, asked for the other", both, published("192.0.2.7"), false, "", false},
		{"no address yet", both, change(annotationPublicIP, ""), true, "", false},
		{"malformed address", both, change(annotationPublicIP, "999.1.1.1"), true, "", true},
		{"another backend", both, change(annotationType, "host-gw"), true, "", true},
		{"data is no JSON", both, change(annotationData, "x"), true, "", true},
		{"a group's address", both, change(annotationData, `{"VtepMAC":"01:bb:cc:dd:ee:ff"}`), true, "", true},
		{"no device's address", both, change(annotationData, `{"VtepMAC":"00:00:00:00:00:00"}`), true, "", true},
		{"a longer address", both, change(annotationData, `{"VtepMAC":"02:00:5e:10:00:00:00:01"}`), true, "", true},
		{"malformed pod range", []string{"10.42.1.0"}, dualStack, true, "", true},
		{"this node itself", both, dualStack, true, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			self := "self"
			if tt.name == "this node itself" {
				self = "n"
			}
			peers, refused := readPeers([]*corev1.Node{node("n", tt.cidrs, tt.annotations)}, self, tt.v4, "vxlan")
			if got := len(refused) > 0; got != tt.refused {
				t.Errorf("refused: %v", refused)
			}
			if tt.public == "" && len(peers) > 0 || tt.public != "" && (len(peers) != 1 || peers[0].public.String() != tt.public) {
				t.Errorf("peers %+v, want %q", peers, tt.public)
			}
		})
	}
}

// TestAccept lets nodes claim what is not theirs.
func TestAccept(t *testing.T) {
	t.Parallel()
	born := time.Unix(1000, 0)
	p := func(name string, age int, subnet, public, mac string) peer {
		return peer{name, born.Add(-time.Duration(age) * time.Hour), netip.MustParsePrefix(subnet), netip.MustParseAddr(public), mac}
	}
	victim := p("victim", 5, "10.42.1.0/24", "192.0.2.1", "02:00:00:00:00:01")
	tests := []struct {
		name  string
		other peer
		want  []string
	}{
		{"a good neighbour", p("other", 1, "10.42.2.0/24", "192.0.2.2", "02:00:00:00:00:02"), []string{"other", "victim"}},
		{"behind the same address", p("other", 1, "10.42.2.0/24", "192.0.2.1", "02:00:00:00:00:02"), []string{"other", "victim"}},
		{"all traffic to me", p("other", 1, "0.0.0.0/0", "192.0.2.2", "02:00:00:00:00:02"), []string{"victim"}},
		{"the Services to me", p("other", 1, "10.43.0.0/16", "192.0.2.2", "02:00:00:00:00:02"), []string{"victim"}},
		{"the whole cluster to me", p("other", 1, "10.42.0.0/16", "192.0.2.2", "02:00:00:00:00:02"), []string{"victim"}},
		{"the victim's pods to me", p("other", 1, "10.42.1.0/24", "192.0.2.2", "02:00:00:00:00:02"), []string{"victim"}},
		{"one of the victim's pods to me", p("other", 1, "10.42.1.7/32", "192.0.2.2", "02:00:00:00:00:02"), []string{"victim"}},
		{"the victim's overlay address", p("other", 1, "10.42.2.0/24", "192.0.2.2", "02:00:00:00:00:01"), []string{"victim"}},
		{"the same, but older", p("other", 9, "10.42.1.0/24", "192.0.2.2", "02:00:00:00:00:02"), []string{"other"}},
		{"my own pods", p("other", 1, "10.42.0.0/24", "192.0.2.2", "02:00:00:00:00:02"), []string{"victim"}},
		{"my own overlay address", p("other", 1, "10.42.2.0/24", "192.0.2.2", "02:00:00:00:00:ff"), []string{"victim"}},
		{"bits outside of the mask", p("other", 1, "10.42.2.1/24", "192.0.2.2", "02:00:00:00:00:02"), []string{"victim"}},
		{"loopback", p("other", 1, "10.42.2.0/24", "127.0.0.1", "02:00:00:00:00:02"), []string{"victim"}},
		{"multicast", p("other", 1, "10.42.2.0/24", "224.0.0.1", "02:00:00:00:00:02"), []string{"victim"}},
		{"nowhere", p("other", 1, "10.42.2.0/24", "0.0.0.0", "02:00:00:00:00:02"), []string{"victim"}},
		{"the other family", p("other", 1, "10.42.2.0/24", "2001:db8::1", "02:00:00:00:00:02"), []string{"victim"}},
		{"host-gw has no overlay address", p("other", 1, "10.42.2.0/24", "192.0.2.2", ""), []string{"other", "victim"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := mesh{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.42.0.0/24"), "02:00:00:00:00:ff"}
			good, refused := m.accept([]peer{tt.other, victim})
			var names []string
			for _, p := range good {
				names = append(names, p.node)
			}
			slices.Sort(names)
			if !slices.Equal(names, tt.want) {
				t.Errorf("accepted %v, want %v", names, tt.want)
			}
			if len(refused) != 2-len(tt.want) {
				t.Errorf("refused %v", refused)
			}
		})
	}
}

func TestOverlayMTU(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		backend  string
		underlay int
		v6       bool
		want     int
	}{
		{"vxlan", 1500, false, 1450}, {"vxlan", 1500, true, 1430}, {"vxlan", 9000, false, 8950},
		{"vxlan", 1420, false, 1370}, {"host-gw", 1500, false, 1500}, {"host-gw", 1280, true, 1280},
	} {
		if got := overlayMTU(tt.backend, tt.underlay, tt.v6); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
}

func TestHeartbeatsWakeNobody(t *testing.T) {
	t.Parallel()
	full := func(change func(*corev1.Node)) any {
		n := node("n", []string{"10.42.1.0/24"}, map[string]string{annotationPublicIP: "192.0.2.1", "example.com/x": "1"})
		n.ResourceVersion = "1"
		if change != nil {
			change(n)
		}
		slim, err := slimNode(n)
		if err != nil {
			t.Fatal(err)
		}
		return slim
	}
	before := full(nil)
	for name, tt := range map[string]struct {
		change func(*corev1.Node)
		want   bool
	}{
		"status": {func(n *corev1.Node) {
			n.ResourceVersion = "2"
			n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Now()}}
		}, false},
		"somebody's annotation": {func(n *corev1.Node) { n.Annotations["example.com/x"] = "2" }, false},
		"labels and taints": {func(n *corev1.Node) {
			n.Labels = map[string]string{"a": "b"}
			n.Spec.Taints = []corev1.Taint{{Key: "x"}}
		}, false},
		"address":        {func(n *corev1.Node) { n.Annotations[annotationPublicIP] = "192.0.2.2" }, true},
		"pod range":      {func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.42.2.0/24"} }, true},
		"another object": {func(n *corev1.Node) { n.UID = "other" }, true},
	} {
		if got := differ(before, full(tt.change)); got != tt.want {
			t.Errorf("%s: woken %t, want %t", name, got, tt.want)
		}
	}
}
