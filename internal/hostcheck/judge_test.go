package hostcheck

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// goodFacts is a machine with nothing to complain about.
func goodFacts() facts {
	yes := true
	sysctls := map[string]string{
		"net/ipv4/ip_forward": "1", "net/bridge/bridge-nf-call-iptables": "1", "vm/overcommit_memory": "1",
		"kernel/panic": "10", "kernel/panic_on_oops": "1", "vm/panic_on_oom": "0", "user/max_user_namespaces": "15000",
	}
	for _, b := range bounds() {
		sysctls[b.sysctl] = "9999999"
	}
	all := capabilities{Effective: 1<<41 - 1, Bounding: 1<<41 - 1}
	return facts{
		mode: "server", dataDir: "/var/lib/limpet", root: true, caps: all,
		host: Host{
			KernelVersion: "6.12.0", HasSysAdmin: true, HasNetAdmin: true, HasSysResource: true, NoFileHardLimit: 1 << 20, SystemdIsInit: true,
			Cgroup: Cgroup{Version: 2, Controllers: []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"}},
		},
		kernel:  goodKernel(),
		probes:  map[probe]probeResult{probeOverlay: {}, probeBridge: {}, probeVeth: {}, probeVXLAN: {}, probeNft: {detail: "nftables v1.1"}},
		sysctls: sysctls,
		ns:      map[string]bool{"cgroup": true, "ipc": true, "mnt": true, "net": true, "pid": true, "uts": true, "user": true},
		disk:    &disk{path: "/var/lib", mountPoint: "/", fsType: "ext4", total: 100 * gib, free: 50 * gib, inodes: 1000, inodesFree: 900, writable: true},
		memory:  memory{total: 4 * gib, available: 3 * gib},
		clock:   clock{now: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC), synchronised: &yes, rtc: true},
		network: network{hostname: "gateway-7", nameservers: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, defaultRoute: true, ports: portsOf("server")},
		system:  system{init: "systemd", model: "Raspberry Pi 4", cpus: 4, randomReady: true},
	}
}

func goodKernel() kernel {
	k := kernel{config: map[string]string{}, configSource: "/proc/config.gz"}
	for _, ft := range features() {
		for _, either := range ft.options {
			option, _, _ := strings.Cut(either, "|")
			k.config[option] = "y"
		}
	}
	return k
}

func TestGoodMachineHasNothingToComplain(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"server", "agent"} {
		f := goodFacts()
		f.mode = mode
		for _, x := range judge(f) {
			if x.Verdict == Warn || x.Verdict == Fail {
				t.Errorf("%s: %+v", mode, x)
			}
		}
	}
}

func TestVerdicts(t *testing.T) {
	t.Parallel()
	no := false
	tests := map[string]struct {
		change  func(*facts)
		name    string // of the finding
		want    Verdict
		mention string // in detail or remedy
	}{
		"no cgroups": {func(f *facts) { f.host.Cgroup = Cgroup{} }, "version", Fail, "cgroup2"},
		"cgroup v1": {func(f *facts) {
			f.host.Cgroup = Cgroup{Version: 1, Controllers: []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "pids"}}
		}, "version", Info, "works"},
		"Raspberry Pi":              {func(f *facts) { f.host.Cgroup.Controllers = []string{"cpuset", "cpu", "io", "pids"} }, "controllers", Fail, "cgroup_enable=memory"},
		"not delegated":             {func(f *facts) { f.host.Cgroup.Controllers = []string{"memory", "pids"} }, "controllers", Fail, "cpu, cpuset"},
		"v1 needs more controllers": {func(f *facts) { f.host.Cgroup.Version = 1 }, "controllers", Fail, "devices"},
		"hybrid took the controller": {func(f *facts) {
			f.host.Cgroup.Controllers = []string{"cpu"}
			f.host.Cgroup.UnifiedControllers = []string{"memory"}
		}, "controllers", Fail, "systemd.unified_cgroup_hierarchy=1"},
		"no cgroup namespace":        {func(f *facts) { delete(f.ns, "net") }, "namespaces", Fail, "net"},
		"user":                       {func(f *facts) { f.root = false }, "user", Fail, "sudo"},
		"user namespace":             {func(f *facts) { f.host.InUserNamespace = true }, "user namespace", Warn, ""},
		"capability":                 {func(f *facts) { f.caps.Effective &^= 1 << 12 }, "capabilities", Fail, "CAP_NET_ADMIN"},
		"container capability":       {func(f *facts) { f.caps.Effective &^= 1 << 29 }, "capabilities", Fail, "CAP_AUDIT_WRITE"},
		"no CAP_SYS_RESOURCE":        {func(f *facts) { f.host.HasSysResource = false }, "CAP_SYS_RESOURCE", Warn, "adapts"},
		"few files":                  {func(f *facts) { f.host.NoFileHardLimit = 1024 }, "open files", Fail, "LimitNOFILE"},
		"some files":                 {func(f *facts) { f.host.NoFileHardLimit = 20000 }, "open files", Warn, "20000"},
		"inotify":                    {func(f *facts) { f.sysctls["fs/inotify/max_user_instances"] = "128" }, "fs.inotify.max_user_instances", Warn, "sysctl -w fs.inotify.max_user_instances=512"},
		"no network namespaces":      {func(f *facts) { f.sysctls["user/max_net_namespaces"] = "0" }, "user.max_net_namespaces", Fail, ""},
		"no user namespaces":         {func(f *facts) { f.sysctls["user/max_user_namespaces"] = "0" }, "user namespaces", Info, "hostUsers"},
		"forwarding off":             {func(f *facts) { f.sysctls["net/ipv4/ip_forward"] = "0" }, "net.ipv4.ip_forward", Info, "limpet sets it"},
		"panic on oom":               {func(f *facts) { f.sysctls["vm/panic_on_oom"] = "2" }, "vm.panic_on_oom", Warn, ""},
		"disk unknown":               {func(f *facts) { f.disk = nil }, "data directory", Fail, "--data-dir"},
		"read-only":                  {func(f *facts) { f.disk.readOnly = true }, "data directory", Fail, "read-only"},
		"noexec":                     {func(f *facts) { f.disk.noExec = true }, "data directory", Fail, "noexec"},
		"not writable":               {func(f *facts) { f.disk.writable = false }, "data directory", Fail, "written"},
		"network file system":        {func(f *facts) { f.disk.fsType = "nfs4" }, "data directory", Fail, "ext4"},
		"fuse":                       {func(f *facts) { f.disk.fsType = "fuse.sshfs" }, "data directory", Fail, "ext4"},
		"tmpfs":                      {func(f *facts) { f.disk.fsType = "tmpfs" }, "data directory", Warn, "restart"},
		"full disk":                  {func(f *facts) { f.disk.free = 500 * mib }, "free space", Fail, "make room"},
		"nearly full disk":           {func(f *facts) { f.disk.free = 14 * gib }, "free space", Warn, "evicts"},
		"small disk":                 {func(f *facts) { f.disk.total, f.disk.free = 8*gib, 3*gib }, "free space", Warn, "images"},
		"no inodes":                  {func(f *facts) { f.disk.inodesFree = 10 }, "free inodes", Warn, "evicts"},
		"little memory":              {func(f *facts) { f.memory.total = 256 * mib }, "memory", Fail, "server"},
		"half a gigabyte":            {func(f *facts) { f.memory.total = 480 * mib }, "memory", Warn, "zram"},
		"half a gigabyte, agent":     {func(f *facts) { f.memory.total, f.mode = 480*mib, "agent" }, "memory", OK, ""},
		"swap":                       {func(f *facts) { f.memory.swap = gib }, "swap", Info, "1.0 GiB"},
		"1970":                       {func(f *facts) { f.clock.now = time.Unix(0, 0) }, "clock", Fail, "1970"},
		"unsynchronised":             {func(f *facts) { f.clock.synchronised = &no }, "time synchronisation", Info, ""},
		"unsynchronised, no battery": {func(f *facts) { f.clock.synchronised, f.clock.rtc = &no, false }, "time synchronisation", Warn, "power cut"},
		"host name":                  {func(f *facts) { f.network.hostname = "my_box" }, "host name", Fail, "--node-name"},
		"upper case is lowered":      {func(f *facts) { f.network.hostname = "Box" }, "host name", OK, ""},
		"localhost":                  {func(f *facts) { f.network.hostname = "localhost" }, "host name", Warn, ""},
		"no name servers":            {func(f *facts) { f.network.nameservers = nil }, "name servers", Info, "none"},
		"local resolver":             {func(f *facts) { f.network.nameservers = []netip.Addr{netip.MustParseAddr("127.0.0.53")} }, "name servers", Info, "dnsPolicy"},
		"no default route":           {func(f *facts) { f.network.defaultRoute = false }, "default route", Info, "--node-ip"},
		"port taken":                 {func(f *facts) { f.network.ports[0].err = "in use" }, "ports", Fail, "6443/tcp (API server)"},
		"port taken by limpet":       {func(f *facts) { f.network.ports[0].err = "in use"; f.network.runningHere = true }, "ports", OK, "running"},
		"ufw":                        {func(f *facts) { f.system.firewall = "ufw" }, "firewall", Warn, "ufw allow from 10.42.0.0/16"},
		"firewalld":                  {func(f *facts) { f.system.firewall = "firewalld" }, "firewall", Warn, "--zone=trusted"},
		"docker":                     {func(f *facts) { f.system.docker = true }, "Docker", Info, "FORWARD"},
		"selinux":                    {func(f *facts) { f.system.selinux = "enforcing" }, "SELinux", Warn, ""},
		"apparmor without its tool":  {func(f *facts) { f.system.apparmor = true }, "AppArmor", Info, "apparmor_parser"},
		"entropy":                    {func(f *facts) { f.system.randomReady = false }, "random numbers", Warn, ""},
		"no init":                    {func(f *facts) { f.system.init = "runit" }, "init system", Info, "runit"},
		"container":                  {func(f *facts) { f.system.container = "lxc" }, "machine", Info, "in a container (lxc)"},
		"virtual":                    {func(f *facts) { f.system.virtual, f.system.model = true, "" }, "machine", Info, "virtual"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := goodFacts()
			tt.change(&f)
			checkFinding(t, judge(f), tt.name, tt.want, tt.mention)
		})
	}
}

func checkFinding(t *testing.T, findings []Finding, name string, want Verdict, mention string) {
	t.Helper()
	for _, x := range findings {
		if x.Name != name || (name == "version" && x.Section == "kernel") {
			continue
		}
		if x.Verdict != want || !strings.Contains(x.Detail+" "+x.Remedy, mention) {
			t.Errorf("got %+v, want %s with %q", x, want, mention)
		}
		if (x.Verdict == Warn || x.Verdict == Fail) && x.Remedy == "" {
			t.Errorf("%s without a remedy: %+v", x.Verdict, x)
		}
		if got := failed(findings); got != (want == Fail) {
			t.Errorf("failed = %v with %+v", got, x)
		}
		return
	}
	t.Errorf("no finding %q in %+v", name, findings)
}

func TestKernelFeatures(t *testing.T) {
	t.Parallel()
	unset := func(f *facts, option string) { delete(f.kernel.config, option) }
	tests := map[string]struct {
		change  func(*facts)
		name    string
		want    Verdict
		mention string
	}{
		"works although the configuration says no": {func(f *facts) { unset(f, "VXLAN") }, "vxlan", OK, ""},
		"tried and failed": {func(f *facts) { f.probes[probeNft] = probeResult{err: "no dnat"}; unset(f, "NFT_NAT") },
			"nftables", Fail, "no dnat (CONFIG_NFT_NAT is not set)"},
		"vxlan is only recommended": {func(f *facts) { f.probes[probeVXLAN] = probeResult{err: "not supported"} }, "vxlan", Warn, "host-gw"},
		"not tried, not set":        {func(f *facts) { clear(f.probes); unset(f, "VETH") }, "veth", Fail, "CONFIG_VETH is not set"},
		"not tried, built in":       {func(f *facts) { clear(f.probes) }, "overlay file system", OK, "built in"},
		"alternative":               {func(f *facts) { clear(f.probes); unset(f, "NFT_FIB_IPV4"); f.kernel.config["NFT_FIB_INET"] = "y" }, "nftables", OK, "built in"},
		"module is installed": {func(f *facts) {
			f.kernel.config["BRIDGE_NETFILTER"] = "m"
			f.kernel.loadable = map[string]bool{"br_netfilter": true}
		}, "bridge netfilter", OK, "module"},
		"module is not installed": {func(f *facts) {
			f.kernel.config["BRIDGE_NETFILTER"] = "m"
			f.kernel.loadable = map[string]bool{"x": true}
		}, "bridge netfilter", Fail, "module br_netfilter is not installed"},
		"no modules at all":          {func(f *facts) { f.kernel.config["BRIDGE_NETFILTER"] = "m" }, "bridge netfilter", Fail, "not installed"},
		"module is loaded":           {func(f *facts) { f.kernel = kernel{loaded: map[string]bool{"br_netfilter": true}} }, "bridge netfilter", OK, "loaded"},
		"no configuration, loadable": {func(f *facts) { f.kernel = kernel{loadable: map[string]bool{"br_netfilter": true}} }, "bridge netfilter", OK, "module"},
		"no configuration, builtin":  {func(f *facts) { f.kernel = kernel{builtin: map[string]bool{"br_netfilter": true}} }, "bridge netfilter", OK, "built in"},
		"nothing known":              {func(f *facts) { f.kernel = kernel{} }, "bridge netfilter", Warn, "cannot be told"},
		"nothing known, optional":    {func(f *facts) { f.kernel = kernel{} }, "traffic shaping", Info, "cannot be told"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := goodFacts()
			tt.change(&f)
			var r report
			judgeKernel(&r, f)
			for _, x := range r.findings {
				if x.Name == tt.name {
					if x.Verdict != tt.want || !strings.Contains(x.Detail+" "+x.Remedy, tt.mention) {
						t.Errorf("got %+v, want %s with %q", x, tt.want, tt.mention)
					}
					return
				}
			}
			t.Errorf("no finding %q", tt.name)
		})
	}
}
