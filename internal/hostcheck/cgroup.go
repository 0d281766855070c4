package hostcheck

import "slices"

// cgroupRoot is where every init system and container runtime mounts control
// groups; the kubelet and runc look nowhere else.
const cgroupRoot = "/sys/fs/cgroup"

// Cgroup describes the control group hierarchies mounted at /sys/fs/cgroup.
type Cgroup struct {
	// Version is 2 when /sys/fs/cgroup itself is a cgroup2 mount, 1 when
	// version 1 hierarchies are mounted below it, 0 when neither is.
	Version int
	// Hybrid is true for version 1 with a cgroup2 mount at /sys/fs/cgroup/unified.
	Hybrid bool
	// Controllers are the controllers that can be used at Version, sorted as
	// the kernel lists them (version 2) or by mount (version 1).
	Controllers []string
	// UnifiedControllers are those that a hybrid tree gave to its cgroup2 side,
	// where version 1 users such as the kubelet cannot reach them.
	UnifiedControllers []string
}

// Has tells whether the controller is usable.
func (c Cgroup) Has(controller string) bool { return slices.Contains(c.Controllers, controller) }

// cgroupFromMounts finds version and, for version 1, controllers. Of mounts
// stacked on one point only the last is visible, so later lines win.
func cgroupFromMounts(mounts []mount) Cgroup {
	visible := make(map[string]mount)
	var order []string
	for _, m := range mounts {
		if m.Point != cgroupRoot && !isBelow(m.Point, cgroupRoot) {
			continue
		}
		if m.Point == cgroupRoot { // hides everything mounted below before it
			clear(visible)
			order = order[:0]
		}
		if _, seen := visible[m.Point]; !seen {
			order = append(order, m.Point)
		}
		visible[m.Point] = m
	}

	var c Cgroup
	if visible[cgroupRoot].FSType == "cgroup2" {
		c.Version = 2
		return c
	}
	for _, point := range order {
		switch m := visible[point]; m.FSType {
		case "cgroup":
			c.Version = 1
			for _, o := range m.SuperOptions {
				if isV1Controller(o) && !slices.Contains(c.Controllers, o) {
					c.Controllers = append(c.Controllers, o)
				}
			}
		case "cgroup2":
			c.Hybrid = true
		}
	}
	if c.Version == 0 {
		c.Hybrid = false
	}
	return c
}

// isV1Controller tells a controller from the other options of a cgroup mount
// (rw, xattr, name=systemd, release_agent=...). The set is closed: version 1 is frozen.
func isV1Controller(option string) bool {
	switch option {
	case "cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer",
		"net_cls", "perf_event", "net_prio", "hugetlb", "pids", "rdma", "misc":
		return true
	}
	return false
}
