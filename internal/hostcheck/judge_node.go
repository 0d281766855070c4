package hostcheck

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func judgeCgroups(r *report, f facts) {
	c := f.host.Cgroup
	switch {
	case c.Version == 2:
		r.add(OK, "version", "", "2")
	case c.Version == 1 && c.Hybrid:
		r.add(Info, "version", "", "1, with version 2 beside it; works, but Kubernetes will drop version 1")
	case c.Version == 1:
		r.add(Info, "version", "", "1; works, but Kubernetes will drop it")
	default:
		r.add(Fail, "version", "mount them: mount -t cgroup2 none /sys/fs/cgroup (OpenRC: rc-update add cgroups)", "no control groups at /sys/fs/cgroup")
		return
	}
	required := []string{"cpu", "cpuset", "memory", "pids"}
	if c.Version == 1 {
		required = append(required, "cpuacct", "devices", "freezer")
	}
	var have, missing, elsewhere []string
	for _, name := range required {
		switch {
		case c.Has(name):
			have = append(have, name)
		case slices.Contains(c.UnifiedControllers, name):
			elsewhere = append(elsewhere, name)
		default:
			missing = append(missing, name)
		}
	}
	switch {
	case len(elsewhere) > 0:
		r.add(Fail, "controllers", "let systemd use one version only: boot with systemd.unified_cgroup_hierarchy=1",
			"%s: on the version 2 side, while the others are on version 1", strings.Join(elsewhere, ", "))
	case slices.Contains(missing, "memory"):
		r.add(Fail, "controllers", "boot with cgroup_enable=memory cgroup_memory=1 (Raspberry Pi: in /boot/firmware/cmdline.txt)",
			"missing: %s", strings.Join(missing, ", "))
	case len(missing) > 0:
		r.add(Fail, "controllers", "use a kernel that has them, or let the init system or container manager delegate them to this tree",
			"missing: %s", strings.Join(missing, ", "))
	default:
		r.add(OK, "controllers", "", "%s", strings.Join(have, " "))
	}
	if c.Has("hugetlb") {
		r.add(OK, "huge pages", "", "hugetlb")
	} else {
		r.add(Info, "huge pages", "", "no hugetlb controller: pods cannot ask for huge pages")
	}
}

// containerCapabilities are what runc gives to an ordinary container; limpet
// must hold them to hand them on.
func containerCapabilities() map[int]string {
	return map[int]string{
		unix.CAP_CHOWN: "CAP_CHOWN", unix.CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE", unix.CAP_FSETID: "CAP_FSETID",
		unix.CAP_FOWNER: "CAP_FOWNER", unix.CAP_MKNOD: "CAP_MKNOD", unix.CAP_NET_RAW: "CAP_NET_RAW",
		unix.CAP_SETGID: "CAP_SETGID", unix.CAP_SETUID: "CAP_SETUID", unix.CAP_SETFCAP: "CAP_SETFCAP",
		unix.CAP_SETPCAP: "CAP_SETPCAP", unix.CAP_NET_BIND_SERVICE: "CAP_NET_BIND_SERVICE",
		unix.CAP_SYS_CHROOT: "CAP_SYS_CHROOT", unix.CAP_KILL: "CAP_KILL", unix.CAP_AUDIT_WRITE: "CAP_AUDIT_WRITE",
	}
}

func judgePrivileges(r *report, f facts) {
	if f.root {
		r.add(OK, "user", "", "root")
	} else {
		r.add(Fail, "user", "run limpet as root (sudo limpet check-config)", "not root")
	}
	if f.host.InUserNamespace {
		r.add(Warn, "user namespace", "run limpet as root of the machine", "this is a user namespace: root here is not root of the machine")
	}
	required := map[int]string{unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN", unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_SYS_PTRACE: "CAP_SYS_PTRACE"}
	var missing []string
	for _, set := range []map[int]string{required, containerCapabilities()} {
		for c, name := range set {
			if !f.caps.Effective.Has(c) {
				missing = append(missing, name)
			}
		}
	}
	slices.Sort(missing)
	switch {
	case len(missing) == 0:
		r.add(OK, "capabilities", "", "all that are required")
	case f.root:
		r.add(Fail, "capabilities", "give them to the service or container that limpet runs in (privileged, or CapabilityBoundingSet)",
			"missing: %s", strings.Join(missing, " "))
	default:
		r.add(Info, "capabilities", "", "missing: %s", strings.Join(missing, " "))
	}
	if f.root && !f.host.HasSysResource {
		r.add(Warn, "CAP_SYS_RESOURCE", "give it if you can; limpet adapts", "missing: limits cannot be raised, and containers cannot be protected from the out-of-memory killer")
	}
	if !f.caps.Bounding.Has(unix.CAP_SYS_MODULE) && f.root {
		r.add(Info, "CAP_SYS_MODULE", "", "missing: kernel modules must be loaded by somebody else")
	}
	const want, need = 65536, 4096
	files := f.host.NoFileHardLimit
	switch {
	case files < need:
		r.add(Fail, "open files", "raise the hard limit (LimitNOFILE=1048576 in the unit, or ulimit -Hn)", "hard limit %d", files)
	case files < want:
		r.add(Warn, "open files", "raise the hard limit (LimitNOFILE=1048576 in the unit, or ulimit -Hn)", "hard limit %d; %d are recommended", files, want)
	default:
		r.add(OK, "open files", "", "hard limit %d", files)
	}
}
