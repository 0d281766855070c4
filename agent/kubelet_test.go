package agent

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/hostcheck"
	"github.com/limpetio/limpet/internal/upstream"
)

func nodeOptions() Options {
	o := Options{
		Logger: slog.New(slog.DiscardHandler), Paths: Paths{DataDir: "/var/lib/limpet"},
		ClusterCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		ClusterDNS:  []netip.Addr{netip.MustParseAddr("10.43.0.10")}, ClusterDomain: "cluster.local",
		Host: hostcheck.Host{NoFileHardLimit: 20000},
	}
	o.Config = config.Node{NodeName: "box", NodeIP: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	return o
}

func TestKubeletConfiguration(t *testing.T) {
	t.Parallel()
	o := nodeOptions()
	o.Config.NodeLabels = []string{"site=mast-7"}
	o.Config.KubeletArgs = []string{"max-pods=42", "eviction-hard=memory.available<50Mi"}
	k, err := newKubelet(o)
	if err != nil {
		t.Fatal(err)
	}
	s := k.server
	if s.MaxPods != 42 || s.NodeIP != "192.0.2.1" || s.NodeLabels["site"] != "mast-7" || s.ReadOnlyPort != 0 || s.Authentication.Anonymous.Enabled {
		t.Errorf("kubelet is configured as %+v", s)
	}
	if len(s.EvictionHard) != 1 || s.EvictionHard["memory.available"] != "50Mi" {
		t.Errorf("the user's eviction thresholds must replace ours, got %v", s.EvictionHard)
	}
	if s.MaxOpenFiles != 20000 {
		t.Errorf("without CAP_SYS_RESOURCE the limit of open files is %d, want the hard limit", s.MaxOpenFiles)
	}
}

func TestCgroupDriverFollowsTheMachine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		host hostcheck.Host
		want string
	}{
		{hostcheck.Host{SystemdIsInit: true, Cgroup: hostcheck.Cgroup{Version: 2}}, systemdDriver},
		{hostcheck.Host{SystemdIsInit: true, Cgroup: hostcheck.Cgroup{Version: 1}}, cgroupfsDriver},
		{hostcheck.Host{Cgroup: hostcheck.Cgroup{Version: 2}}, cgroupfsDriver},
	} {
		o := nodeOptions()
		o.Host = tt.host
		k, err := newKubelet(o)
		if err != nil {
			t.Fatal(err)
		}
		if k.server.CgroupDriver != tt.want {
			t.Errorf("%+v: driver is %s, want %s", tt.host, k.server.CgroupDriver, tt.want)
		}
	}
}

func TestWrongArgumentsAreReportedByTheComponent(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		kubelet, proxy []string
		want           string
	}{
		{[]string{"max-pods=many"}, nil, "--kubelet-arg: kubelet says: "},
		{[]string{"config=/etc/kubelet.yaml"}, nil, "pass single settings"},
		{nil, []string{"no-such-flag"}, "--kube-proxy-arg: kube-proxy says: unknown flag"},
		{nil, []string{"proxy-mode=carrier-pigeon"}, "--kube-proxy-arg: kube-proxy says: "},
	} {
		o := nodeOptions()
		o.Config.KubeletArgs, o.Config.KubeProxyArgs = tt.kubelet, tt.proxy
		_, err := New(o)
		var wrong *upstream.ArgError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), tt.want) || wrong.ExitCode() != 2 {
			t.Errorf("New(%q, %q) = %v, want %q", tt.kubelet, tt.proxy, err, tt.want)
		}
	}
}
