package containerinit

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cgroupRoot is where the kubelet and runc look.
const cgroupRoot = "/sys/fs/cgroup"

// ownGroup gets the processes of the container itself: with version 2 of control groups,
// one that has processes of its own cannot give controllers to others.
const ownGroup = "limpet-init"

// prepareCgroups makes the container's control group look like a machine's root.
func prepareCgroups(log *slog.Logger) error {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	mounts := cgroupMounts(parseMounts(string(mountinfo)))
	if len(mounts) == 0 {
		return fmt.Errorf("no control groups are mounted at %s: %s", cgroupRoot, needsPrivileges)
	}
	if !atRoot(string(groups)) {
		// Docker does this by itself with version 2, Kubernetes does not for privileged pods.
		if err := ownNamespace(mounts); err != nil {
			return err
		}
	}
	if mounts[0].fsType != "cgroup2" || mounts[0].point != cgroupRoot {
		return nil // version 1: every group may have processes
	}
	return delegate(cgroupRoot, log)
}

// ownNamespace makes the control group of this process the root of what it and its
// children see.
func ownNamespace(mounts []mount) error {
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a control group namespace: %w; %s", err, needsPrivileges)
	}
	for _, m := range mounts {
		options := ""
		if m.fsType == "cgroup" {
			options = strings.Join(v1Options(m.options), ",")
		}
		// In place of the other mount, which shows what is outside. The kernel refuses one
		// over it, since both are of the same file system.
		if err := unix.Unmount(m.point, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w; %s", m.point, err, needsPrivileges)
		}
		if err := unix.Mount("cgroup", m.point, m.fsType, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
			return fmt.Errorf("mount control groups at %s: %w; %s", m.point, err, needsPrivileges)
		}
	}
	return nil
}

// delegate moves the processes of a group of version 2 into a group below it, and
// gives its controllers to groups below.
func delegate(root string, log *slog.Logger) error {
	own := filepath.Join(root, ownGroup)
	if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the control group %s: %w; %s", own, err, needsPrivileges)
	}
	if err := moveAll(root, own); err != nil {
		return err
	}
	have, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for controller := range strings.FieldsSeq(string(have)) {
		// One by one: that one is not to be had must not cost the others.
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+controller), 0o644); err != nil {
			log.Warn("a controller cannot be used for pods", "controller", controller, "error", err)
		}
	}
	return nil
}

// moveAll moves all processes of a group into another one.
func moveAll(from, to string) error {
	for range 10 { // more may come meanwhile, from docker exec
		pids, err := os.ReadFile(filepath.Join(from, "cgroup.procs"))
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		for pid := range strings.FieldsSeq(string(pids)) {
			if pid == "0" {
				return fmt.Errorf("a process outside of the container is in its control group %s, and cannot be moved", from)
			}
			err := os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(pid), 0o644)
			if err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("move process %s into the control group %s: %w", pid, to, err)
			}
		}
	}
	return fmt.Errorf("new processes come into the control group %s faster than they can be moved", from)
}

// mount is a line of /proc/self/mountinfo.
type mount struct {
	point, fsType string
	options       []string // of the file system
}

func parseMounts(text string) []mount {
	var mounts []mount
	for line := range strings.Lines(text) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 3 {
			continue
		}
		mounts = append(mounts, mount{point: l[4], fsType: r[0], options: strings.Split(r[2], ",")})
	}
	return mounts
}

// cgroupMounts are the visible ones; that of version 2 at the root, if there is one,
// alone: what was below it is hidden.
func cgroupMounts(all []mount) []mount {
	var out []mount
	for _, m := range all {
		if m.point == cgroupRoot {
			out = out[:0] // covers what came before
		}
		if m.fsType != "cgroup" && m.fsType != "cgroup2" || m.point != cgroupRoot && !strings.HasPrefix(m.point, cgroupRoot+"/") {
			continue
		}
		out = slices.DeleteFunc(out, func(o mount) bool { return o.point == m.point })
		out = append(out, m)
	}
	return out
}

// atRoot tells from /proc/self/cgroup whether the process is in the root of every
// hierarchy that it sees.
func atRoot(groups string) bool {
	for line := range strings.Lines(groups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && parts[2] != "/" {
			return false
		}
	}
	return true
}

// v1Options are those that choose a hierarchy of version 1.
func v1Options(options []string) []string {
	var out []string
	for _, o := range options {
		switch {
		case strings.HasPrefix(o, "name="):
			out = append(out, "none", o)
		case slices.Contains([]string{"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"}, o),
			strings.HasPrefix(o, "release_agent="):
		default:
			out = append(out, o)
		}
	}
	return out
}
