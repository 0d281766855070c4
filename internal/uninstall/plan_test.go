package uninstall

import (
	"slices"
	"testing"

	"github.com/limpetio/limpet/agent/network"
	"github.com/limpetio/limpet/internal/created"
)

const (
	hostMounts = "mnt:[1]"
	hostNet    = "net:[1]"
	uid        = "fe9a25c6-b450-499e-a472-7f854fab681a"
	id         = "a23b12ba47d8885734ca55ff141b374bb357dad60e9394edafcad680ab2eb243"
	shimPath   = "/var/lib/limpet/data/0abc/bin/containerd-shim-runc-v2"
)

func testLayout() Layout {
	return Layout{
		DataDir: "/var/lib/limpet", RunDir: "/run/limpet", KubeletDir: "/var/lib/kubelet",
		NetNSDir: "/run/netns", CNIDir: "/var/lib/cni", RuncDir: "/run/containerd/runc/k8s.io",
	}
}

// ours is the record of a machine that limpet has for itself.
func ours() created.Record { return created.Assumed("/var/lib/limpet", true) }

func shim(pid int) Process {
	return Process{PID: pid, Parent: 1, Name: "containerd-shim", Exe: shimPath, MountNS: hostMounts, NetNS: hostNet, Cgroups: []string{"/limpet.service"}}
}

func pids(list []Process) []int {
	var out []int
	for _, p := range list {
		out = append(out, p.PID)
	}
	return out
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	in := func(pid, parent int, group string) Process {
		return Process{PID: pid, Parent: parent, Exe: "/bin/app", MountNS: "mnt:[9]", NetNS: "net:[9]", Cgroups: []string{group}}
	}
	for _, c := range []struct {
		name       string
		record     created.Record
		machine    Machine
		kill, main []int
	}{
		{
			"a shim, its containers and what they started", created.Record{},
			Machine{Processes: []Process{shim(10), in(11, 10, "/x"), in(12, 11, "/x"), in(13, 12, "/elsewhere"), in(99, 1, "/x")}},
			[]int{10, 11, 12, 13}, []int{11},
		},
		{
			"orphans of a shim that has died", ours(),
			Machine{Processes: []Process{in(11, 1, "/kubepods/besteffort/pod"+uid+"/"+id), in(12, 11, "/kubepods/burstable/podx/y")}},
			[]int{11, 12}, []int{11},
		},
		{
			"another Kubernetes with the same control groups", created.Record{},
			Machine{Pods: []string{uid}, Processes: []Process{in(11, 1, "/kubepods/pod"+uid+"/c"), in(12, 1, "/kubepods/pod00000000-b450-499e-a472-7f854fab681a/c")}},
			[]int{11}, []int{11},
		},
		{
			"the names that systemd gives", created.Record{},
			Machine{Pods: []string{uid}, Processes: []Process{
				in(11, 1, "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podfe9a25c6_b450_499e_a472_7f854fab681a.slice/cri-containerd-x.scope"),
				in(12, 1, "/user.slice/podfe9a25c6_b450_499e_a472_7f854fab681a"),
			}},
			[]int{11}, []int{11},
		},
		{
			"a limpet in a container of somebody else's", created.Record{},
			Machine{Processes: []Process{{PID: 20, Parent: 1, Exe: shimPath, MountNS: "mnt:[7]", Cgroups: []string{"/docker/kubepods"}}, in(21, 20, "/docker/kubepods/pod"+uid)}},
			nil, nil,
		},
		{
			"another containerd", ours(),
			Machine{Processes: []Process{
				{PID: 30, Parent: 1, Exe: "/usr/bin/containerd-shim-runc-v2", MountNS: hostMounts, Cgroups: []string{"/system.slice/containerd.service"}},
				{PID: 32, Parent: 1, Exe: "/var/lib/limpet/database/postgres", MountNS: hostMounts, Cgroups: []string{"/"}},
				in(31, 30, "/docker/abc"),
			}},
			nil, nil,
		},
		{
			"run by a shell inside a pod", ours(),
			Machine{Self: []int{42, 41, 10, 1}, Processes: []Process{shim(10), in(41, 10, "/kubepods/a"), in(42, 41, "/kubepods/a"), in(43, 10, "/kubepods/b")}},
			[]int{43}, []int{43},
		},
		{
			"pids that were used again in a circle", created.Record{},
			Machine{Processes: []Process{in(5, 6, "/x"), in(6, 5, "/x")}},
			nil, nil,
		},
	} {
		c.machine.MountNS, c.machine.NetNS = hostMounts, hostNet
		p := Make(testLayout(), c.record, c.machine)
		if got := pids(p.Kill); !slices.Equal(got, c.kill) {
			t.Errorf("%s: ends %v, want %v", c.name, got, c.kill)
		}
		if got := pids(p.Main); !slices.Equal(got, c.main) {
			t.Errorf("%s: asks %v, want %v", c.name, got, c.main)
		}
	}
}

func TestMounts(t *testing.T) {
	t.Parallel()
	volume := "/var/lib/kubelet/pods/" + uid + "/volumes/kubernetes.io~empty-dir/m"
	all := []Mount{
		{"/", "ext4", "/"}, {"/var/lib/limpet", "ext4", "/"}, {"/var/lib/kubelet", "ext4", "/"}, {"/run/netns", "tmpfs", "/netns"},
		{"/var/lib/limpet/agent/containerd", "xfs", "/"}, {"/var/lib/limpet/agent/containerd/tmpmounts/c1", "overlay", "/"},
		{volume, "tmpfs", "/"}, {volume + "/inner", "ext4", "/x"}, {"/var/lib/kubelet/pods/other/volumes/v", "nfs4", "/"},
		{"/run/limpet/containerd/rootfs", "overlay", "/"}, {"/run/limpet2/x", "tmpfs", "/"},
		{"/run/netns/cni-ours", "nsfs", "net:[5]"}, {"/run/netns/cni-known", "nsfs", "net:[6]"}, {"/run/netns/cni-other", "nsfs", "net:[7]"}, {"/run/netns/host", "nsfs", hostNet},
	}
	machine := Machine{
		MountNS: hostMounts, NetNS: hostNet, Mounts: all, Pods: []string{uid}, Namespaces: []string{"/run/netns/cni-known"},
		Processes: []Process{shim(10), {PID: 11, Parent: 10, NetNS: "net:[5]"}, {PID: 12, Parent: 1, NetNS: "net:[7]"}},
	}
	always := []string{"/run/netns/cni-known", "/run/netns/cni-ours", "/run/limpet/containerd/rootfs"}
	for _, c := range []struct {
		name   string
		record created.Record
		want   []string
	}{
		{"limpet's directories", ours(), append(slices.Clone(always), "/var/lib/kubelet/pods/other/volumes/v", volume+"/inner", volume, "/var/lib/limpet/agent/containerd/tmpmounts/c1")},
		{"somebody else's kubelet", created.Record{}, append(slices.Clone(always), volume+"/inner", volume, "/var/lib/limpet/agent/containerd/tmpmounts/c1")},
	} {
		p := Make(testLayout(), c.record, machine)
		if !slices.Equal(p.Unmount, c.want) {
			t.Errorf("%s:\n%q, want\n%q", c.name, p.Unmount, c.want)
		}
		if want := []string{"/run/netns/cni-known", "/run/netns/cni-ours"}; !slices.Equal(p.Remove, want) {
			t.Errorf("%s: removes %q", c.name, p.Remove)
		}
	}
}

func TestKernelAndFiles(t *testing.T) {
	t.Parallel()
	machine := Machine{
		Traces: []network.Trace{
			{Kind: network.TraceInterface, Name: "cni0"}, {Kind: network.TraceInterface, Name: "flannel.1"}, {Kind: network.TraceRoutes, Name: "of protocol 76"},
			{Kind: network.TraceTable, Name: "ip kube-proxy"}, {Kind: network.TraceTable, Name: "ip limpet-masquerade"},
		},
		Cgroups:    []string{"/kubepods", "/kubepods/a", "/kubepods/a/pod" + uid, "/kubepods/a/podother", "/kubepods/b"},
		Containers: []string{id}, Pods: []string{uid}, Files: []string{"/var/lib/cni/results/cbr0-" + id + "-eth0"}, RunDirMade: true,
	}
	p := Make(testLayout(), created.Record{Interfaces: []string{"flannel.1"}}, machine)
	if want := []network.Trace{machine.Traces[1], machine.Traces[2], machine.Traces[4]}; !slices.Equal(p.Traces, want) {
		t.Errorf("%v, want %v", p.Traces, want)
	}
	if want := []string{"/kubepods/a/pod" + uid}; !slices.Equal(p.Cgroups, want) {
		t.Errorf("%v, want %v", p.Cgroups, want)
	}
	if want := []string{machine.Files[0], "/run/limpet"}; !slices.Equal(p.Remove, want) {
		t.Errorf("%v, want %v", p.Remove, want)
	}
	p = Make(testLayout(), ours(), machine)
	if want := []string{"/kubepods/a/pod" + uid, "/kubepods/a/podother", "/kubepods/a", "/kubepods/b", "/kubepods"}; !slices.Equal(p.Cgroups, want) || len(p.Traces) != 5 {
		t.Errorf("%v, %v", p.Cgroups, p.Traces)
	}
	if p := Make(testLayout(), ours(), Machine{Mounts: []Mount{{"/", "ext4", "/"}}, Processes: []Process{{PID: 1}}}); !p.Empty() {
		t.Errorf("on a machine without limpet: %+v", p)
	}
}
