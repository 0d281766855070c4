package server

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/quiet"
)

func TestFirstPodCIDRs(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"10.42.0.0/16": "10.42.0.0/24",
		"10.42.7.0/24": "10.42.7.0/24",
		"fd00:42::/56": "fd00:42::/64",
		"10.42.0.0/25": "",
	} {
		got := firstPodCIDRs([]netip.Prefix{netip.MustParsePrefix(in)})
		if want == "" && got != nil || want != "" && !slices.Equal(got, []string{want}) {
			t.Errorf("firstPodCIDRs(%s) = %v, want %q", in, got, want)
		}
	}
}

func TestOnlyTheFirstNodeTakesARange(t *testing.T) {
	t.Parallel()
	cfg := config.Server{ClusterCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}}
	cfg.NodeName, cfg.NodeLabels = "box", []string{"site=mast-7"}
	r := &nodeRegistration{config: cfg}
	if n := r.node(true); n.Spec.PodCIDR != "10.42.0.0/24" || n.Labels["site"] != "mast-7" || n.Labels[serverRole] != "true" {
		t.Errorf("first node is %+v", n)
	}
	if n := r.node(false); n.Spec.PodCIDR != "" {
		t.Errorf("a later node took range %s", n.Spec.PodCIDR)
	}
	r.config.KubeControllerManagerArgs = []string{"node-cidr-mask-size=26"}
	if n := r.node(true); n.Spec.PodCIDR != "" {
		t.Errorf("with another mask size the node took range %s", n.Spec.PodCIDR)
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

// The order of package initialisation is what keeps idle queues asleep.
func TestWorkQueuesAreQuiet(t *testing.T) {
	t.Parallel()
	if !quiet.Enabled() {
		t.Error("component-base's metrics provider was installed before ours: see package quiet")
	}
}
