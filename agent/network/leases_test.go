package network

import (
	"encoding/json"
	"errors"
	"maps"
	"testing"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var (
	onlyV4 = families{v4: true}
	dual   = families{v4: true, v6: true}
)

func node(name string, cidrs []string, annotations map[string]string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}}
	n.Spec.PodCIDRs = cidrs
	if len(cidrs) > 0 {
		n.Spec.PodCIDR = cidrs[0]
	}
	return n
}

func published(publicIP string) map[string]string {
	return map[string]string{annotationManaged: "true", annotationType: "vxlan", annotationPublicIP: publicIP, annotationData: `{"VtepMAC":"aa:bb:cc:dd:ee:ff"}`}
}

func TestOwnLeaseWaitsForAllFamilies(t *testing.T) {
	t.Parallel()
	attrs := &lease.LeaseAttrs{BackendType: "vxlan"}
	tests := []struct {
		name    string
		cidrs   []string
		want    families
		pending bool
		v4, v6  string
	}{
		{"no range yet", nil, onlyV4, true, "", ""},
		{"IPv4", []string{"10.42.3.0/24"}, onlyV4, false, "10.42.3.0/24", ""},
		{"second family missing", []string{"10.42.3.0/24"}, dual, true, "", ""},
		{"both, in any order", []string{"fd00:42::/64", "10.42.3.0/24"}, dual, false, "10.42.3.0/24", "fd00:42::/64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, err := ownLease(node("n", tt.cidrs, nil), tt.want, attrs)
			if tt.pending {
				if !errors.Is(err, errNoSubnet) {
					t.Errorf("error is %v, want %v", err, errNoSubnet)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if l.Subnet.String() != tt.v4 || tt.v6 != "" && l.IPv6Subnet.String() != tt.v6 {
				t.Errorf("lease is %s %s", l.Subnet, l.IPv6Subnet)
			}
		})
	}
	if _, err := ownLease(node("n", []string{"10.42.3.0"}, nil), onlyV4, attrs); err == nil || errors.Is(err, errNoSubnet) {
		t.Errorf("a malformed range gave %v", err)
	}
}

func TestNodeLeaseIgnoresNodesWithoutOne(t *testing.T) {
	t.Parallel()
	good := published("192.0.2.7")
	for name, change := range map[string]func(map[string]string){
		"not managed":    func(a map[string]string) { delete(a, annotationManaged) },
		"no address":     func(a map[string]string) { delete(a, annotationPublicIP) },
		"hostile number": func(a map[string]string) { a[annotationPublicIP] = "999.1.1.1" },
	} {
		a := maps.Clone(good)
		change(a)
		if _, ok := nodeLease(node("n", []string{"10.42.1.0/24"}, a), onlyV4); ok {
			t.Errorf("%s: a lease was found", name)
		}
	}
	if _, ok := nodeLease(node("n", nil, good), onlyV4); ok {
		t.Error("no pod range: a lease was found")
	}
	l, ok := nodeLease(node("n", []string{"10.42.1.0/24"}, good), onlyV4)
	if !ok || l.Attrs.PublicIP.String() != "192.0.2.7" || l.Subnet.String() != "10.42.1.0/24" {
		t.Errorf("lease is %+v, %v", l, ok)
	}
}

func TestAnnotationsHoldOnlyWhatIsMissing(t *testing.T) {
	t.Parallel()
	attrs := &lease.LeaseAttrs{BackendType: "vxlan", PublicIP: ip.MustParseIP4("192.0.2.7"), BackendData: json.RawMessage(`{"VtepMAC":"aa:bb:cc:dd:ee:ff"}`)}
	if got := annotations(node("n", nil, published("192.0.2.7")), onlyV4, attrs); len(got) != 0 {
		t.Errorf("nothing is missing, got %v", got)
	}
	if got := annotations(node("n", nil, published("192.0.2.8")), onlyV4, attrs); len(got) != 1 || got[annotationPublicIP] != "192.0.2.7" {
		t.Errorf("the address is missing, got %v", got)
	}
	overwritten := published("198.51.100.1")
	overwritten[annotationOverwrite] = "198.51.100.1"
	if got := annotations(node("n", nil, overwritten), onlyV4, attrs); len(got) != 0 {
		t.Errorf("the administrator's address must stay, got %v", got)
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	l := func(publicIP string) lease.Lease {
		l, ok := nodeLease(node("n", []string{"10.42.1.0/24"}, published(publicIP)), onlyV4)
		if !ok {
			t.Fatal("no lease")
		}
		return l
	}
	a, b := l("192.0.2.1"), l("192.0.2.2")
	tests := []struct {
		name        string
		before, now map[string]lease.Lease
		want        []lease.EventType
	}{
		{"nothing", nil, nil, nil},
		{"same", map[string]lease.Lease{"n": a}, map[string]lease.Lease{"n": a}, nil},
		{"added", nil, map[string]lease.Lease{"n": a}, []lease.EventType{lease.EventAdded}},
		{"removed", map[string]lease.Lease{"n": a}, nil, []lease.EventType{lease.EventRemoved}},
		{"moved", map[string]lease.Lease{"n": a}, map[string]lease.Lease{"n": b}, []lease.EventType{lease.EventRemoved, lease.EventAdded}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []lease.EventType
			for _, e := range diff(tt.before, tt.now) {
				got = append(got, e.Type)
			}
			if len(got) != len(tt.want) {
				t.Fatalf("events are %v, want %v", got, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("events are %v, want %v", got, tt.want)
				}
			}
		})
	}
}
