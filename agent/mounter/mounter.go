// Package mounter mounts for the kubelet where there is no mount(8), as in a container
// image that holds nothing but limpet.
package mounter

import (
	"fmt"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

// Choose returns upstream's mounter where its programs are installed, as those know file
// systems that need helpers of their own; otherwise one that needs none.
func Choose(upstream mount.Interface) mount.Interface {
	for _, program := range []string{"mount", "umount"} {
		if _, err := exec.LookPath(program); err != nil {
			return &Mounter{Interface: upstream}
		}
	}
	return upstream
}

// Mounter calls the kernel itself. What only looks at mounts is upstream's.
type Mounter struct{ mount.Interface }

// Mount mounts source at target. Options are those of mount(8).
func (m *Mounter) Mount(source, target, fsType string, options []string) error {
	return m.MountSensitive(source, target, fsType, options, nil)
}

// MountSensitive is Mount with options that are not shown in errors.
func (m *Mounter) MountSensitive(source, target, fsType string, options, sensitive []string) error {
	p := planOf(append(append([]string{}, options...), sensitive...))
	describe := func(err error) error {
		if err == nil {
			return nil
		}
		return fmt.Errorf("mount %s at %s (type %q, options %s): %w", source, target, fsType, strings.Join(options, ","), err)
	}
	if p.remount && !p.bind() {
		return describe(unix.Mount(source, target, fsType, unix.MS_REMOUNT|p.flags, p.data))
	}
	if !p.remount {
		data := p.data
		flags := p.flags
		if p.bind() { // takes no other options, only a remount does
			flags, data, fsType = p.bindFlags, "", ""
		}
		if err := unix.Mount(source, target, fsType, flags, data); err != nil {
			return describe(err)
		}
	}
	if p.bind() && p.flags != 0 {
		if err := unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|p.flags|inherited(target), ""); err != nil {
			return describe(err)
		}
	}
	for _, propagation := range p.propagation {
		if err := unix.Mount("", target, "", propagation, ""); err != nil {
			return describe(err)
		}
	}
	return nil
}

// MountSensitiveWithoutSystemd is MountSensitive: systemd plays no part.
func (m *Mounter) MountSensitiveWithoutSystemd(source, target, fsType string, options, sensitive []string) error {
	return m.MountSensitive(source, target, fsType, options, sensitive)
}

// MountSensitiveWithoutSystemdWithMountFlags is the same: the flags tell mount(8) not to
// look at paths, which the kernel does not do anyway.
func (m *Mounter) MountSensitiveWithoutSystemdWithMountFlags(source, target, fsType string, options, sensitive, _ []string) error {
	return m.MountSensitive(source, target, fsType, options, sensitive)
}

// Unmount unmounts target.
func (m *Mounter) Unmount(target string) error {
	if err := unix.Unmount(target, 0); err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// plan is what options mean to the kernel.
type plan struct {
	flags       uintptr // of the mount
	bindFlags   uintptr // MS_BIND, perhaps with MS_REC
	remount     bool
	propagation []uintptr // one call each
	data        string    // for the file system
}

func (p plan) bind() bool { return p.bindFlags != 0 }

// known are the options that are the kernel's own; those that are 0 are defaults.
func known() map[string]uintptr {
	return map[string]uintptr{
		"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
		"sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC, "noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME,
		"relatime": unix.MS_RELATIME, "strictatime": unix.MS_STRICTATIME, "lazytime": unix.MS_LAZYTIME,
		"defaults": 0, "rw": 0, "suid": 0, "dev": 0, "exec": 0, "async": 0, "atime": 0, "_netdev": 0, "nofail": 0,
	}
}

func planOf(options []string) plan {
	var p plan
	var data []string
	propagations := map[string]uintptr{"shared": unix.MS_SHARED, "slave": unix.MS_SLAVE, "private": unix.MS_PRIVATE, "unbindable": unix.MS_UNBINDABLE}
	flags := known()
	for _, all := range options {
		for o := range strings.SplitSeq(all, ",") {
			flag, isFlag := flags[o]
			name, recursive := strings.CutPrefix(o, "r")
			switch {
			case o == "":
			case o == "bind":
				p.bindFlags |= unix.MS_BIND
			case o == "rbind":
				p.bindFlags |= unix.MS_BIND | unix.MS_REC
			case o == "remount":
				p.remount = true
			case isFlag:
				p.flags |= flag
			case propagations[o] != 0:
				p.propagation = append(p.propagation, propagations[o])
			case recursive && propagations[name] != 0:
				p.propagation = append(p.propagation, propagations[name]|unix.MS_REC)
			default:
				data = append(data, o)
			}
		}
	}
	p.data = strings.Join(data, ",")
	return p
}

// inherited are the restrictions of what is mounted at target: a remount that does not
// repeat them would lift them, which a user namespace does not allow.
func inherited(target string) uintptr {
	var s unix.Statfs_t
	if err := unix.Statfs(target, &s); err != nil {
		return 0
	}
	var flags uintptr
	for st, ms := range map[uint64]uintptr{
		unix.ST_RDONLY: unix.MS_RDONLY, unix.ST_NOSUID: unix.MS_NOSUID, unix.ST_NODEV: unix.MS_NODEV, unix.ST_NOEXEC: unix.MS_NOEXEC,
		unix.ST_NOATIME: unix.MS_NOATIME, unix.ST_NODIRATIME: unix.MS_NODIRATIME, unix.ST_RELATIME: unix.MS_RELATIME,
	} {
		if uint64(s.Flags)&st != 0 {
			flags |= ms
		}
	}
	return flags
}
