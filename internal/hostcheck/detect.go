package hostcheck

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Host is what a starting node needs to know about its machine.
type Host struct {
	// KernelVersion is uname's release, e.g. "6.12.41-v8+".
	KernelVersion string
	// Cgroup says how control groups are mounted.
	Cgroup Cgroup
	// HasSysAdmin, HasNetAdmin and HasSysResource tell whether the process has
	// the capability in its effective set. Without CAP_SYS_RESOURCE containerd
	// needs restrict_oom_score_adj and nobody may raise a hard limit.
	HasSysAdmin, HasNetAdmin, HasSysResource bool
	// NoFileHardLimit is RLIMIT_NOFILE's hard limit in files.
	NoFileHardLimit uint64
	// InUserNamespace is true when root here is not root of the machine.
	InUserNamespace bool
	// SystemdIsInit is true when systemd manages the machine, as sd_booted(3) tells.
	SystemdIsInit bool
}

// Detect looks at the machine; it opens five small files and takes well under a
// millisecond. An error means that /proc or /sys is not mounted.
func Detect() (Host, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return Host{}, fmt.Errorf("uname: %w", err)
	}
	var nofile unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &nofile); err != nil {
		return Host{}, fmt.Errorf("getrlimit RLIMIT_NOFILE: %w", err)
	}
	h, err := detect(os.DirFS("/"))
	if err != nil {
		return Host{}, fmt.Errorf("look at this machine: %w", err)
	}
	h.KernelVersion = unix.ByteSliceToString(uts.Release[:])
	h.NoFileHardLimit = nofile.Max
	return h, nil
}

// detect fills in what can be read from files below root ("/" of the machine).
func detect(root fs.FS) (Host, error) {
	var h Host
	mountinfo, err := fs.ReadFile(root, "proc/self/mountinfo")
	if err != nil {
		return h, err
	}
	h.Cgroup = cgroupFromMounts(parseMountinfo(string(mountinfo)))
	switch {
	case h.Cgroup.Version == 2:
		// In a namespaced or delegated tree this is what the parent passed down.
		b, err := fs.ReadFile(root, "sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return h, err
		}
		h.Cgroup.Controllers = strings.Fields(string(b))
	case h.Cgroup.Hybrid:
		b, err := fs.ReadFile(root, "sys/fs/cgroup/unified/cgroup.controllers")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return h, err
		}
		h.Cgroup.UnifiedControllers = strings.Fields(string(b))
	}

	status, err := fs.ReadFile(root, "proc/self/status")
	if err != nil {
		return h, err
	}
	caps, err := parseCapabilities(string(status))
	if err != nil {
		return h, err
	}
	h.HasSysAdmin = caps.Effective.Has(unix.CAP_SYS_ADMIN)
	h.HasNetAdmin = caps.Effective.Has(unix.CAP_NET_ADMIN)
	h.HasSysResource = caps.Effective.Has(unix.CAP_SYS_RESOURCE)

	// A kernel without user namespaces has no uid_map: then we are in none.
	uidMap, err := fs.ReadFile(root, "proc/self/uid_map")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return h, err
	}
	h.InUserNamespace = inUserNamespace(string(uidMap))

	if fi, err := fs.Stat(root, "run/systemd/system"); err == nil {
		h.SystemdIsInit = fi.IsDir()
	}
	return h, nil
}

// inUserNamespace tells from /proc/self/uid_map whether the process is outside
// the initial user namespace, whose map is the identity on all 2^32-1 ids.
func inUserNamespace(uidMap string) bool {
	f := strings.Fields(uidMap)
	if len(f) == 0 {
		return false
	}
	return len(f) != 3 || f[0] != "0" || f[1] != "0" || f[2] != "4294967295"
}
