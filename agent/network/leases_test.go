package network

import (
	"encoding/json"
	"errors"
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
