package hostcheck

import (
	"context"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// sysctlsOfInterest are the ones that the judges look at, as paths below /proc/sys.
func sysctlsOfInterest() []string {
	return []string{
		"net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables", "net/netfilter/nf_conntrack_max",
		"fs/inotify/max_user_instances", "fs/inotify/max_user_watches", "fs/file-max",
		"user/max_net_namespaces", "user/max_mnt_namespaces", "user/max_pid_namespaces", "user/max_user_namespaces",
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
		"kernel/keys/root_maxkeys", "kernel/pid_max",
	}
}

// gather looks at the machine. What cannot be found out stays empty.
func gather(ctx context.Context, opts Options) (facts, error) {
	root := os.DirFS("/")
	host, err := Detect()
	if err != nil {
		return facts{}, err
	}
	f := gatherFiles(root, host.KernelVersion)
	f.mode, f.dataDir, f.host, f.root = opts.Mode, opts.DataDir, host, os.Geteuid() == 0
	f.disk = gatherDisk(root, opts.DataDir)
	f.clock.now = time.Now()
	f.clock.synchronised = clockSynchronised()
	f.network.hostname, _ = os.Hostname()
	f.network.runningHere = limpetRuns()
	f.network.ports = tryPorts(opts.Mode)
	f.system.cpus = runtime.NumCPU()
	f.system.randomReady = randomReady()
	f.probes = runProbes(ctx, opts, f.disk)
	return f, nil
}

// gatherFiles finds out what files below root tell.
func gatherFiles(root fs.FS, release string) facts {
	var f facts
	if b, err := fs.ReadFile(root, "proc/self/status"); err == nil {
		f.caps, _ = parseCapabilities(string(b))
	}
	f.kernel.config, f.kernel.configSource = readKernelConfig(root, release)
	f.kernel.loaded, f.kernel.loadable, f.kernel.builtin = readModules(root, release)
	f.sysctls = make(map[string]string)
	for _, name := range sysctlsOfInterest() {
		if b, err := fs.ReadFile(root, "proc/sys/"+name); err == nil {
			f.sysctls[name] = strings.TrimSpace(string(b))
		}
	}
	f.ns = make(map[string]bool)
	if entries, err := fs.ReadDir(root, "proc/self/ns"); err == nil {
		for _, e := range entries {
			f.ns[e.Name()] = true
		}
	}
	if b, err := fs.ReadFile(root, "proc/meminfo"); err == nil {
		f.memory = parseMeminfo(string(b))
	}
	f.clock.rtc = exists(root, "sys/class/rtc/rtc0")
	f.network.nameservers = nameservers(root)
	f.network.defaultRoute = hasDefaultRoute(readString(root, "proc/net/route"), readString(root, "proc/net/ipv6_route"))
	f.system = gatherSystem(root)
	return f
}

// gatherSystem finds out what surrounds us.
func gatherSystem(root fs.FS) system {
	s := system{
		docker:       exists(root, "run/docker.sock"),
		apparmor:     strings.TrimSpace(readString(root, "sys/module/apparmor/parameters/enabled")) == "Y",
		apparmorTool: exists(root, "sbin/apparmor_parser") || exists(root, "usr/sbin/apparmor_parser"),
		virtual:      strings.Contains(readString(root, "proc/cpuinfo"), " hypervisor"),
	}
	switch {
	case exists(root, "run/systemd/system"):
		s.init = "systemd"
	case exists(root, "run/openrc"):
		s.init = "openrc"
	default:
		s.init = strings.TrimSpace(readString(root, "proc/1/comm"))
	}
	s.container = strings.TrimSpace(readString(root, "run/systemd/container"))
	for kind, mark := range map[string]string{"docker": ".dockerenv", "podman": "run/.containerenv"} {
		if s.container == "" && exists(root, mark) {
			s.container = kind
		}
	}
	switch strings.TrimSpace(readString(root, "sys/fs/selinux/enforce")) {
	case "1":
		s.selinux = "enforcing"
	case "0":
		s.selinux = "permissive"
	}
	for _, name := range []string{"proc/device-tree/model", "sys/class/dmi/id/product_name"} {
		if s.model == "" {
			s.model = strings.Trim(readString(root, name), "\x00 \n")
		}
	}
	switch {
	case strings.Contains(readString(root, "etc/ufw/ufw.conf"), "ENABLED=yes"):
		s.firewall = "ufw"
	case exists(root, "run/firewalld"):
		s.firewall = "firewalld"
	}
	return s
}

// parseMeminfo reads /proc/meminfo, whose numbers are KiB.
func parseMeminfo(text string) memory {
	var m memory
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseUint(f[1], 10, 54)
		if err != nil {
			continue
		}
		switch f[0] {
		case "MemTotal:":
			m.total = n << 10
		case "MemAvailable:":
			m.available = n << 10
		case "SwapTotal:":
			m.swap = n << 10
		}
	}
	return m
}

// hasDefaultRoute reads /proc/net/route and /proc/net/ipv6_route.
func hasDefaultRoute(v4, v6 string) bool {
	for line := range strings.Lines(v4) {
		f := strings.Fields(line) // Iface Destination Gateway Flags RefCnt Use Metric Mask ...
		if len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			return true
		}
	}
	for line := range strings.Lines(v6) {
		f := strings.Fields(line) // destination, prefix length, ..., interface; lo holds the reject route
		if len(f) > 9 && strings.Trim(f[0], "0") == "" && f[1] == "00" && f[9] != "lo" {
			return true
		}
	}
	return false
}

func nameservers(root fs.FS) []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(readString(root, "etc/resolv.conf")) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, a)
		}
	}
	return out
}

// gatherDisk looks at the file system below the data directory, or below the
// nearest directory that exists.
func gatherDisk(root fs.FS, dataDir string) *disk {
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		return nil
	}
	for {
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			break
		}
		if dir == "/" {
			return nil
		}
		dir = filepath.Dir(dir)
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil
	}
	unit := uint64(st.Frsize)
	d := &disk{
		path:  dir,
		total: st.Blocks * unit, free: st.Bavail * unit, inodes: st.Files, inodesFree: st.Ffree,
		readOnly: st.Flags&unix.ST_RDONLY != 0, noExec: st.Flags&unix.ST_NOEXEC != 0,
	}
	if m, ok := mountOf(parseMountinfo(readString(root, "proc/self/mountinfo")), dir); ok {
		d.mountPoint, d.fsType = m.Point, m.FSType
	}
	err = unix.Access(dir, unix.W_OK)
	d.writable = err == nil
	if err != nil {
		d.writeErr = err.Error()
	}
	return d
}

// clockSynchronised asks the kernel; nil: it does not tell.
func clockSynchronised() *bool {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil { // modes 0: only reads
		return nil
	}
	ok := t.Status&unix.STA_UNSYNC == 0
	return &ok
}

// randomReady tells whether the kernel's random numbers can be used; until then
// everything that makes a key blocks.
func randomReady() bool {
	var b [1]byte
	_, err := unix.Getrandom(b[:], unix.GRND_NONBLOCK)
	return err == nil
}

func exists(root fs.FS, name string) bool {
	_, err := fs.Stat(root, name)
	return err == nil
}

func readString(root fs.FS, name string) string {
	b, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return string(b)
}
