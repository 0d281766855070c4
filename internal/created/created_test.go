package created

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"testing"
)

func TestNext(t *testing.T) {
	t.Parallel()
	c := Candidates{Paths: []string{"/var/lib/kubelet", "/etc/cni"}, Interfaces: []string{"cni0", "flannel.1"}, Tables: []string{"ip kube-proxy"}, Cgroups: []string{"kubepods"}}
	first := Record{}.Next(c, Seen{
		Paths: map[string]bool{"/etc/cni": true}, Interfaces: map[string]bool{"cni0": true, "eth0": true},
		Tables: map[string]bool{"ip kube-proxy": true}, Cgroups: map[string]bool{}, Sysctls: map[string]string{"net/ipv4/ip_forward": "0"},
	})
	if !slices.Equal(first.Paths, []string{"/var/lib/kubelet"}) || !slices.Equal(first.Interfaces, []string{"flannel.1"}) ||
		len(first.Tables) != 0 || !slices.Equal(first.Cgroups, []string{"kubepods"}) {
		t.Fatalf("%+v", first)
	}
	// A restart: what limpet made is there now; the settings are limpet's.
	second := first.Next(c, Seen{
		Paths: map[string]bool{"/etc/cni": true, "/var/lib/kubelet": true}, Interfaces: map[string]bool{"cni0": true, "flannel.1": true},
		Tables: map[string]bool{"ip kube-proxy": true}, Cgroups: map[string]bool{"kubepods": true}, Sysctls: map[string]string{"net/ipv4/ip_forward": "1"},
	})
	if !slices.Equal(second.Paths, first.Paths) || !slices.Equal(second.Interfaces, first.Interfaces) || second.Sysctls["net/ipv4/ip_forward"].Before != "0" {
		t.Fatalf("%+v", second)
	}
	// A reboot: the other product has gone, so that what comes now is limpet's.
	none := map[string]bool{}
	third := second.Next(c, Seen{Paths: map[string]bool{"/etc/cni": true}, Interfaces: none, Tables: none, Cgroups: none})
	if blind := first.Next(c, Seen{}); !slices.Equal(blind.Interfaces, first.Interfaces) || len(blind.Tables) != 0 || blind.OwnsPath("/etc/cni") {
		t.Errorf("what could not be looked at is taken for limpet's: %+v", blind)
	}
	if !third.OwnsInterface("cni0") || !third.OwnsTable("ip kube-proxy") || third.OwnsPath("/etc/cni") {
		t.Fatalf("%+v", third)
	}
}

func TestOwns(t *testing.T) {
	t.Parallel()
	r := Record{Paths: []string{"/etc/limpet"}, Tables: []string{"ip kube-proxy"}}
	for path, want := range map[string]bool{"/etc/limpet": true, "/etc/limpet/a/b": true, "/etc/limpet.old": false, "/etc": false} {
		if r.OwnsPath(path) != want {
			t.Errorf("path %s", path)
		}
	}
	for table, want := range map[string]bool{"ip kube-proxy": true, "ip6 kube-proxy": false, "inet limpet-policy": true, "inet limpet": false, "ip filter": false} {
		if r.OwnsTable(table) != want {
			t.Errorf("table %s", table)
		}
	}
}

func TestRestore(t *testing.T) {
	t.Parallel()
	r := Record{}.Next(Candidates{}, Seen{Sysctls: map[string]string{
		"net/ipv4/ip_forward": "0", "kernel/panic": "0", "vm/overcommit_memory": "1", "net/netfilter/nf_conntrack_max": "100",
	}})
	for _, c := range []struct {
		name          string
		settled       bool
		now, restored map[string]string
	}{
		{"as limpet left it", true, map[string]string{"net/ipv4/ip_forward": "1", "kernel/panic": "10", "vm/overcommit_memory": "1", "net/netfilter/nf_conntrack_max": "500"},
			map[string]string{"net/ipv4/ip_forward": "0", "kernel/panic": "0", "net/netfilter/nf_conntrack_max": "100"}},
		{"changed since", true, map[string]string{"kernel/panic": "30", "net/netfilter/nf_conntrack_max": "700"}, map[string]string{}},
		{"set back already", true, map[string]string{"net/ipv4/ip_forward": "0", "kernel/panic": "0"}, map[string]string{}},
		{"never came up", false, map[string]string{"net/ipv4/ip_forward": "1", "kernel/panic": "10", "net/netfilter/nf_conntrack_max": "500"},
			map[string]string{"net/ipv4/ip_forward": "0", "kernel/panic": "0"}},
		{"gone from the kernel", true, map[string]string{}, map[string]string{}},
	} {
		got := r
		if c.settled {
			got = r.Settled(map[string]string{"net/ipv4/ip_forward": "1", "kernel/panic": "10", "vm/overcommit_memory": "1", "net/netfilter/nf_conntrack_max": "500"})
		}
		if restored := got.Restore(c.now); !maps.Equal(restored, c.restored) {
			t.Errorf("%s: %v, want %v", c.name, restored, c.restored)
		}
	}
}

func TestAssumed(t *testing.T) {
	t.Parallel()
	if r := Assumed("/data", false); r.OwnsInterface("cni0") || r.OwnsPath("/var/lib/kubelet") || r.OwnsCgroup("kubepods") || !r.OwnsPath("/data/server") || !r.OwnsTable("ip limpet-masquerade") {
		t.Errorf("%+v", r)
	}
	if r := Assumed("/data", true); !r.OwnsInterface("cni0") || !r.OwnsPath("/var/lib/kubelet/pods") || !r.OwnsCgroup("kubepods") {
		t.Errorf("%+v", r)
	}
}

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Load(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	want := Record{}.Next(All("/etc/limpet/limpet.yaml"), Seen{Paths: map[string]bool{}, Sysctls: map[string]string{"kernel/panic": "0"}})
	if err := want.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := Load(dir)
	if err != nil || !slices.Equal(got.Paths, want.Paths) || got.Sysctls["kernel/panic"].Before != "0" {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, damaged := range []string{"", "{", `{"version": 2}`, "null"} {
		if err := os.WriteFile(file(dir), []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil {
			t.Errorf("%q is taken for a record", damaged)
		}
	}
}
