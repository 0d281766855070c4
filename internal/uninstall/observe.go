package uninstall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/limpetio/limpet/agent"
	"github.com/limpetio/limpet/agent/network"
	"github.com/limpetio/limpet/internal/created"
)

// layoutOf finds the places as the kernel names them.
func layoutOf(dataDir string) Layout {
	real := func(path string) string {
		if resolved, err := filepath.EvalSymlinks(path); err == nil {
			return resolved
		}
		return filepath.Clean(path)
	}
	return Layout{
		DataDir: real(dataDir), RunDir: real(agent.RunDir), KubeletDir: real(agent.KubeletRoot),
		NetNSDir: real("/run/netns"), CNIDir: real("/var/lib/cni"), RuncDir: real("/run/containerd/runc/k8s.io"),
	}
}

// look finds out what is on the machine. Errors are of what could not be looked
// at; the Machine has the rest.
func look(ctx context.Context, l Layout) (Machine, error) {
	m := Machine{Self: ancestors(os.Getpid())}
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var err error
	m.MountNS, err = os.Readlink("/proc/self/ns/mnt")
	note(err)
	m.NetNS, err = os.Readlink("/proc/self/ns/net")
	note(err)
	m.Processes, err = processes()
	note(err)
	m.Mounts, err = mounts()
	note(err)
	tables, err := created.Tables(ctx, "nft")
	note(err)
	m.Traces, err = network.Traces(tables)
	note(err)
	m.Cgroups, err = podCgroups()
	note(err)
	note(m.containers(l))
	_, err = os.Lstat(l.RunDir)
	m.RunDirMade = err == nil
	return m, errors.Join(errs...)
}

// ancestors are a process and all that it descends from.
func ancestors(pid int) []int {
	var list []int
	for pid > 0 && !slices.Contains(list, pid) {
		list = append(list, pid)
		p, err := process(pid)
		if err != nil {
			break
		}
		pid = p.Parent
	}
	return list
}

func processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// One that has ended meanwhile is none; so is a zombie.
		if p, err := process(pid); err == nil && p.State != "Z" && p.State != "X" {
			list = append(list, p)
		}
	}
	return list, nil
}

func process(pid int) (Process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Process{}, err
	}
	p, err := parseStat(string(stat))
	if err != nil {
		return Process{}, err
	}
	if exe, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
		p.Exe = strings.TrimSuffix(exe, " (deleted)")
	}
	p.MountNS, _ = os.Readlink(filepath.Join(dir, "ns", "mnt")) // empty: not to be seen, so not ours
	p.NetNS, _ = os.Readlink(filepath.Join(dir, "ns", "net"))
	groups, err := os.ReadFile(filepath.Join(dir, "cgroup"))
	if err != nil {
		return Process{}, err
	}
	for line := range strings.Lines(string(groups)) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 && !slices.Contains(p.Cgroups, fields[2]) {
			p.Cgroups = append(p.Cgroups, fields[2])
		}
	}
	return p, nil
}

// parseStat reads proc_pid_stat(5): the name may hold spaces and brackets.
func parseStat(text string) (Process, error) {
	open, closing := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 1 || closing < open {
		return Process{}, fmt.Errorf("read state of a process: no name in %q", text)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text[:open]))
	fields := strings.Fields(text[closing+1:])
	if err != nil || len(fields) < 2 {
		return Process{}, fmt.Errorf("read state of a process: %q", text)
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return Process{}, fmt.Errorf("read state of a process: %w", err)
	}
	return Process{PID: pid, Parent: parent, Name: text[open+1 : closing], State: fields[0]}, nil
}

func mounts() ([]Mount, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return parseMounts(string(text)), nil
}

// parseMounts reads proc_pid_mountinfo(5).
func parseMounts(text string) []Mount {
	var list []Mount
	for line := range strings.Lines(text) {
		left, right, ok := strings.Cut(line, " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 1 {
			continue
		}
		list = append(list, Mount{Point: unescape(l[4]), FSType: r[0], Root: unescape(l[3])})
	}
	return list
}

var octal = regexp.MustCompile(`\\[0-7]{3}`)

// unescape decodes the octal escapes (\040 for a space) of mount points.
func unescape(s string) string {
	return octal.ReplaceAllStringFunc(s, func(code string) string {
		n, err := strconv.ParseUint(code[1:], 8, 8)
		if err != nil {
			return code
		}
		return string([]byte{byte(n)})
	})
}

// podCgroups lists the groups of pods of all hierarchies, each path once.
func podCgroups() ([]string, error) {
	roots, err := created.CgroupRoots()
	if err != nil {
		return nil, err
	}
	var list []string
	var errs []error
	for _, root := range roots {
		tops, err := filepath.Glob(filepath.Join(root, "kubepods*"))
		if err != nil {
			return nil, err
		}
		for _, top := range tops {
			errs = append(errs, filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if errors.Is(err, fs.ErrNotExist) {
					return nil // removed meanwhile
				}
				if err == nil && d.IsDir() {
					list = append(list, strings.TrimPrefix(path, root))
				}
				return err
			}))
		}
	}
	slices.Sort(list)
	return slices.Compact(list), errors.Join(errs...)
}

var podUID = regexp.MustCompile(`pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})`)

// containers finds what containerd has state of: it is in the run-time
// directory, so that it is of this boot.
func (m *Machine) containers(l Layout) error {
	bundles, err := filepath.Glob(filepath.Join(l.RunDir, "containerd", "io.containerd.runtime.v2.task", "k8s.io", "*"))
	if err != nil {
		return err
	}
	sandboxes, err := filepath.Glob(filepath.Join(l.RunDir, "containerd", "io.containerd.grpc.v1.cri", "*", "*"))
	if err != nil {
		return err
	}
	for _, dir := range slices.Concat(bundles, sandboxes) {
		if id := filepath.Base(dir); !slices.Contains(m.Containers, id) {
			m.Containers = append(m.Containers, id)
		}
	}
	for _, bundle := range bundles {
		spec, err := os.ReadFile(filepath.Join(bundle, "config.json"))
		if err != nil {
			continue // half removed
		}
		m.Pods = append(m.Pods, podsOf(string(spec))...)
	}
	slices.Sort(m.Pods)
	m.Pods = slices.Compact(m.Pods)
	for _, id := range m.Containers {
		caches, err := filepath.Glob(filepath.Join(l.CNIDir, "results", "*-"+id+"-*"))
		if err != nil {
			return err
		}
		for _, file := range caches {
			m.Files = append(m.Files, file)
			if ns := namespaceOf(file, l); ns != "" {
				m.Namespaces = append(m.Namespaces, ns)
			}
		}
		if state := filepath.Join(l.RuncDir, id); exists(state) {
			m.Files = append(m.Files, state)
		}
	}
	return nil
}

// podsOf are the UIDs in the path of the control group of a container.
func podsOf(spec string) []string {
	var uids []string
	for _, match := range podUID.FindAllStringSubmatch(spec, -1) {
		uids = append(uids, strings.ReplaceAll(match[1], "_", "-"))
	}
	return uids
}

// namespaceOf is the network namespace that a file of libcni's cache is of.
func namespaceOf(file string, l Layout) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	var cache struct {
		NetNS string `json:"netns"`
	}
	if json.Unmarshal(data, &cache) != nil || cache.NetNS == "" {
		return ""
	}
	return filepath.Join(l.NetNSDir, filepath.Base(cache.NetNS)) // /var/run is a link
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
