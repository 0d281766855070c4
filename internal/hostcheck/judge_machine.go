package hostcheck

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// size writes bytes as people do, e.g. "3.8 GiB".
func size(n uint64) string {
	if n < gib {
		return fmt.Sprintf("%d MiB", n/mib)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/gib)
}

func judgeDisk(r *report, f facts) {
	d := f.disk
	if d == nil {
		r.add(Fail, "data directory", "choose another with --data-dir", "%s cannot be looked at", f.dataDir)
		return
	}
	where := fmt.Sprintf("%s is on %s (%s)", f.dataDir, d.mountPoint, d.fsType)
	const elsewhere = "put it on a local ext4, xfs or btrfs file system with --data-dir"
	switch {
	case d.readOnly:
		r.add(Fail, "data directory", "remount it writable, or choose another with --data-dir", "%s, which is read-only", where)
	case !d.writable && f.root:
		r.add(Fail, "data directory", "choose another with --data-dir", "%s cannot be written: %s", d.path, d.writeErr)
	case d.noExec:
		r.add(Fail, "data directory", "remount it with exec, or choose another with --data-dir: programs are unpacked to it", "%s, which is mounted noexec", where)
	case slices.Contains([]string{"nfs", "nfs4", "cifs", "smb3", "9p", "vfat", "exfat", "ntfs3", "ceph"}, d.fsType) || strings.HasPrefix(d.fsType, "fuse"):
		r.add(Fail, "data directory", elsewhere, "%s, which can hold neither the database nor containers safely", where)
	case slices.Contains([]string{"tmpfs", "ramfs"}, d.fsType):
		r.add(Warn, "data directory", elsewhere, "%s: everything is gone after a restart of the machine", where)
	case d.fsType == "overlay":
		r.add(Warn, "data directory", "mount a volume there", "%s: containers cannot use overlay on overlay", where)
	default:
		r.add(OK, "data directory", "", "%s", where)
	}
	percent := uint64(100)
	if d.total > 0 {
		percent = d.free * 100 / d.total
	}
	detail := fmt.Sprintf("%s free of %s (%d%%)", size(d.free), size(d.total), percent)
	switch {
	case d.free < gib:
		r.add(Fail, "free space", "make room: limpet unpacks 60 MiB, images take the rest", "%s", detail)
	case percent < 15:
		// The kubelet's defaults: nodefs.available<10%, imagefs.available<15%.
		r.add(Warn, "free space", "make room, or lower --kubelet-arg eviction-hard", "%s; the kubelet evicts pods below 15%%", detail)
	case d.free < 4*gib:
		r.add(Warn, "free space", "make room for images", "%s", detail)
	default:
		r.add(OK, "free space", "", "%s", detail)
	}
	if d.inodes > 0 {
		switch percent := d.inodesFree * 100 / d.inodes; {
		case percent < 5: // nodefs.inodesFree<5%
			r.add(Warn, "free inodes", "remove small files; the kubelet evicts pods below 5%", "%d of %d (%d%%)", d.inodesFree, d.inodes, percent)
		default:
			r.add(OK, "free inodes", "", "%d%%", percent)
		}
	}
}

func judgeMemory(r *report, f facts) {
	m := f.memory
	least, enough := uint64(256*mib), uint64(448*mib)
	if f.mode == "server" {
		least, enough = 448*mib, 960*mib // "512 MB" and "1 GB" machines have a little less
	}
	detail := fmt.Sprintf("%s, %s available, %d CPUs", size(m.total), size(m.available), f.system.cpus)
	switch {
	case m.total == 0:
		r.add(Info, "memory", "", "cannot be told")
	case m.total < least:
		r.add(Fail, "memory", "use a machine with more", "%s; a %s needs %s", detail, f.mode, size(least))
	case m.total < enough:
		r.add(Warn, "memory", "add memory or zram swap; start few pods", "%s; %s are recommended for a %s", detail, size(enough), f.mode)
	default:
		r.add(OK, "memory", "", "%s", detail)
	}
	if m.swap > 0 {
		r.add(Info, "swap", "", "%s; pods do not use it unless the kubelet is told to", size(m.swap))
	}
}

func judgeClock(r *report, c clock) {
	// No limpet with these modules was built before; certificates would be valid only in the future.
	oldest := time.Date(2026, time.September, 1, 0, 0, 0, 0, time.UTC)
	if c.now.Before(oldest) {
		r.add(Fail, "clock", "set the time (timedatectl set-time, chronyd, ntpd) before the first start",
			"%s is in the past: this version did not exist then", c.now.UTC().Format(time.DateTime))
	} else {
		r.add(OK, "clock", "", "%s UTC", c.now.UTC().Format(time.DateTime))
	}
	switch {
	case c.synchronised == nil:
		r.add(Info, "time synchronisation", "", "cannot be told")
	case *c.synchronised:
		r.add(OK, "time synchronisation", "", "the kernel's clock is synchronised")
	case c.rtc:
		r.add(Info, "time synchronisation", "", "the kernel's clock is not synchronised; nodes of a cluster should agree on the time")
	default:
		r.add(Warn, "time synchronisation", "run chronyd, systemd-timesyncd or ntpd", "the clock is not synchronised and there is no battery-backed clock: after a power cut the time is wrong")
	}
}

// hostnamePattern is a DNS subdomain as Kubernetes accepts it for a Node (RFC 1123).
var hostnamePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

func judgeNetwork(r *report, f facts) {
	n := f.network
	name := strings.ToLower(n.hostname)
	switch {
	case len(name) > 253 || !hostnamePattern.MatchString(name):
		r.add(Fail, "host name", "set one of letters, digits and - (hostnamectl set-hostname), or use --node-name", "%q cannot name a node", n.hostname)
	case name == "localhost" || name == "localhost.localdomain":
		r.add(Warn, "host name", "set one (hostnamectl set-hostname), or use --node-name: nodes of one cluster need different names", "%q", n.hostname)
	default:
		r.add(OK, "host name", "", "%s", n.hostname)
	}
	judgeResolver(r, n)
	if n.defaultRoute {
		r.add(OK, "default route", "", "present")
	} else {
		r.add(Info, "default route", "", "none; works if an address is found, or named with --node-ip and --flannel-iface")
	}
	var taken []string
	for _, p := range n.ports {
		if p.err != "" {
			taken = append(taken, fmt.Sprintf("%d/%s (%s)", p.number, p.proto, p.use))
		}
	}
	switch {
	case n.runningHere:
		r.add(OK, "ports", "", "limpet is running and holds them")
	case len(taken) > 0:
		r.add(Fail, "ports", "stop what listens there (ss -lnptu shows it): k3s, another kubelet, or a second limpet", "taken: %s", strings.Join(taken, ", "))
	default:
		r.add(OK, "ports", "", "%d ports are free", len(n.ports))
	}
	if fw := f.system.firewall; fw != "" {
		r.add(Warn, "firewall", "let in the cluster's pods and Services: "+firewallRemedy(fw), "%s is active and may cut pods off from the API server and DNS", fw)
	}
	if f.system.docker {
		r.add(Info, "Docker", "", "is installed; it sets the policy of forwarded packets to drop, which limpet's own rules cannot undo: iptables -P FORWARD ACCEPT if pods cannot be reached from other nodes")
	}
}

func judgeResolver(r *report, n network) {
	loopback := 0
	for _, a := range n.nameservers {
		if a.IsLoopback() {
			loopback++
		}
	}
	switch {
	case len(n.nameservers) == 0:
		r.add(Info, "name servers", "", "none in /etc/resolv.conf: only names of the cluster are resolved, and images must be local")
	case loopback == len(n.nameservers):
		r.add(Info, "name servers", "", "a resolver of this machine; pods that use the node's resolv.conf (dnsPolicy: Default) cannot reach it")
	default:
		r.add(OK, "name servers", "", "%d in /etc/resolv.conf", len(n.nameservers))
	}
}

func firewallRemedy(name string) string {
	if name == "ufw" {
		return "ufw allow from 10.42.0.0/16; ufw allow from 10.43.0.0/16; ufw allow 6443/tcp"
	}
	return "firewall-cmd --permanent --zone=trusted --add-source=10.42.0.0/16 --add-source=10.43.0.0/16; firewall-cmd --permanent --add-port=6443/tcp; firewall-cmd --reload"
}

func judgeSystem(r *report, s system) {
	if !s.randomReady {
		r.add(Warn, "random numbers", "wait, or install haveged or rng-tools", "the kernel has not collected enough yet: making keys would wait")
	}
	if s.selinux == "enforcing" {
		r.add(Warn, "SELinux", "if containers are denied access: ausearch -m avc; a container policy (container-selinux) must be installed", "enforcing")
	}
	if s.apparmor && !s.apparmorTool {
		r.add(Info, "AppArmor", "", "enabled, but apparmor_parser is not installed: containers run without its default profile")
	}
	where := s.model
	switch {
	case s.container != "":
		where = strings.TrimSpace(where + ", in a container (" + s.container + ")")
	case s.virtual:
		where = strings.TrimSpace(where + ", virtual")
	}
	r.add(Info, "machine", "", "%s", strings.TrimPrefix(cmpString(where, "physical"), ", "))
	switch s.init {
	case "systemd", "openrc":
		r.add(OK, "init system", "", "%s", s.init)
	default:
		r.add(Info, "init system", "", "%s; nothing restarts limpet after a crash or boot unless you arrange it", cmpString(s.init, "unknown"))
	}
}
