// Package uninstall takes limpet off its machine: Kill ends all that limpet has
// running and in the kernel, Uninstall removes its files too.
//
// What to do is decided by Make, which does no I/O, from a look at the machine
// and from the record of what limpet created. Kill looks, decides and acts until
// a look finds nothing left: it can be interrupted, repeated, and run on what a
// crash or a person with rm has left.
package uninstall

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"github.com/limpetio/limpet/agent/network"
	"github.com/limpetio/limpet/internal/created"
)

// Layout is where limpet keeps things; the paths are clean and without symbolic links.
type Layout struct {
	DataDir    string
	RunDir     string // sockets, containerd's state
	KubeletDir string
	NetNSDir   string // where containerd names network namespaces
	CNIDir     string // libcni's cache
	RuncDir    string // runc's state of the containers of Kubernetes
}

// Process is one process of the machine that is not a zombie.
type Process struct {
	PID, Parent int
	Name        string
	State       string // a letter, as of proc_pid_stat(5)
	Exe         string // path of the program; empty for a kernel thread
	MountNS     string // mnt:[4026531841]
	NetNS       string
	Cgroups     []string // one path for each hierarchy
}

// Mount is one mount of this mount namespace, in the order of mounting.
type Mount struct{ Point, FSType, Root string }

// Machine is what a look at it found.
type Machine struct {
	Self           []int // this process and those that it descends from
	MountNS, NetNS string
	Processes      []Process
	Mounts         []Mount
	Traces         []network.Trace
	Cgroups        []string // directories of the hierarchies, as /kubepods/besteffort/…; each once
	// Containers and Pods are the ids and UIDs of what containerd has state of,
	// Namespaces the paths of the network namespaces of Containers.
	Containers, Pods, Namespaces []string
	// Files are paths outside of the run-time directory that belong to a
	// container of ours: runc's state, libcni's cache.
	Files      []string
	RunDirMade bool // the run-time directory is there
}

// Plan is what is to be done; an empty one says that nothing is left.
type Plan struct {
	Main    []Process // the first processes of containers: they are asked to end
	Kill    []Process // all processes
	Unmount []string  // the last mounted first
	Traces  []network.Trace
	Cgroups []string // innermost first
	Remove  []string // files and directories
}

// Empty tells that nothing is left.
func (p Plan) Empty() bool {
	return len(p.Kill)+len(p.Unmount)+len(p.Traces)+len(p.Cgroups)+len(p.Remove) == 0
}

// Make decides what of the machine is limpet's.
func Make(l Layout, r created.Record, m Machine) Plan {
	var p Plan
	own := ownProcesses(l, r, m)
	for _, proc := range m.Processes {
		if !own[proc.PID] {
			continue
		}
		p.Kill = append(p.Kill, proc)
		if isContainer(l, m, proc, own) {
			p.Main = append(p.Main, proc)
		}
	}
	for _, mount := range slices.Backward(m.Mounts) {
		if ownMount(l, r, m, own, mount) {
			p.Unmount = append(p.Unmount, mount.Point)
			if mount.FSType == "nsfs" {
				p.Remove = append(p.Remove, mount.Point) // the file it was mounted on
			}
		}
	}
	for _, t := range m.Traces {
		if ownTrace(r, t) {
			p.Traces = append(p.Traces, t)
		}
	}
	for _, group := range m.Cgroups {
		if ownCgroup(r, m, group) {
			p.Cgroups = append(p.Cgroups, group)
		}
	}
	slices.SortFunc(p.Cgroups, func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(b, "/"), strings.Count(a, "/")), cmp.Compare(a, b))
	})
	p.Remove = append(p.Remove, m.Files...)
	if m.RunDirMade {
		p.Remove = append(p.Remove, l.RunDir)
	}
	return p
}

// ownProcesses are the shims and other helpers of the payload, what descends
// from them, and what is in a control group of a pod of ours: containers whose
// shim has died. Limpet itself is not one of them; it was stopped before.
func ownProcesses(l Layout, r created.Record, m Machine) map[int]bool {
	own := map[int]bool{}
	for _, p := range m.Processes {
		own[p.PID] = isHelper(l, m, p) || slices.ContainsFunc(p.Cgroups, func(group string) bool { return ownCgroup(r, m, group) })
	}
	for changed := true; changed; {
		changed = false
		for _, p := range m.Processes {
			if !own[p.PID] && own[p.Parent] {
				own[p.PID], changed = true, true
			}
		}
	}
	for _, pid := range m.Self {
		own[pid] = false // a shell in a pod that may do this: its pod is left, and named
	}
	return own
}

// isHelper tells whether a process runs a program of the payload. A limpet in a
// container of somebody else's has the same paths, in another mount namespace.
func isHelper(l Layout, m Machine, p Process) bool {
	return p.MountNS == m.MountNS && strings.HasPrefix(p.Exe, path.Join(l.DataDir, "data")+"/")
}

// isContainer tells whether a shim, and not a process of the container, started it.
func isContainer(l Layout, m Machine, p Process, own map[int]bool) bool {
	if isHelper(l, m, p) {
		return false
	}
	i := slices.IndexFunc(m.Processes, func(q Process) bool { return q.PID == p.Parent })
	return i < 0 || !own[p.Parent] || isHelper(l, m, m.Processes[i])
}

func ownMount(l Layout, r created.Record, m Machine, own map[int]bool, mount Mount) bool {
	switch {
	case below(mount.Point, l.RunDir),
		below(mount.Point, path.Join(l.DataDir, "agent", "containerd", "tmpmounts")):
		return true
	case below(mount.Point, path.Join(l.KubeletDir, "pods")):
		uid, _, _ := strings.Cut(strings.TrimPrefix(mount.Point, path.Join(l.KubeletDir, "pods")+"/"), "/")
		return r.OwnsPath(l.KubeletDir) || slices.Contains(m.Pods, uid)
	case below(mount.Point, path.Join(l.KubeletDir, "plugins")):
		return r.OwnsPath(l.KubeletDir)
	case below(mount.Point, l.NetNSDir) && mount.FSType == "nsfs":
		return slices.Contains(m.Namespaces, mount.Point) || mount.Root != m.NetNS &&
			slices.ContainsFunc(m.Processes, func(p Process) bool { return own[p.PID] && p.NetNS == mount.Root })
	}
	return false
}

func ownTrace(r created.Record, t network.Trace) bool {
	switch t.Kind {
	case network.TraceInterface:
		return r.OwnsInterface(t.Name)
	case network.TraceTable:
		return r.OwnsTable(t.Name)
	}
	return t.Kind == network.TraceRoutes // which carry limpet's mark
}

// ownCgroup tells whether a group is that of the pods as a whole, if limpet
// made it, or that of a pod or container of ours, or below one of those.
func ownCgroup(r created.Record, m Machine, group string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(group, "/"), "/")
	if first == "" {
		return false
	}
	if r.OwnsCgroup(first) {
		return true
	}
	if !strings.HasPrefix(first, "kubepods") {
		return false
	}
	// systemd's names have underscores for the dashes of a UID.
	text := strings.ReplaceAll(group, "_", "-")
	has := func(id string) bool { return strings.Contains(text, id) }
	return slices.ContainsFunc(m.Containers, has) || slices.ContainsFunc(m.Pods, has)
}

// below tells whether p is a path below dir, and not dir itself: a disk of the
// user's may be mounted there.
func below(p, dir string) bool { return strings.HasPrefix(p, dir+"/") }
