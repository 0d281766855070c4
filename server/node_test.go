package server

import (
	"net/netip"
	"slices"
	"testing"

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
		got := firstPodCIDRs(config.Server{ClusterCIDR: []netip.Prefix{netip.MustParsePrefix(in)}})
		if want == "" && got != nil || want != "" && !slices.Equal(got, []string{want}) {
			t.Errorf("firstPodCIDRs(%s) = %v, want %q", in, got, want)
		}
	}
}

func TestNoRangeWithAnotherMaskSize(t *testing.T) {
	t.Parallel()
	cfg := config.Server{ClusterCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}}
	cfg.KubeControllerManagerArgs = []string{"node-cidr-mask-size=26"}
	if got := firstPodCIDRs(cfg); got != nil {
		t.Errorf("took %v", got)
	}
}

// The order of package initialisation is what keeps idle queues asleep.
func TestWorkQueuesAreQuiet(t *testing.T) {
	t.Parallel()
	if !quiet.Enabled() {
		t.Error("component-base's metrics provider was installed before ours: see package quiet")
	}
}
