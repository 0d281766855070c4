package containerinit

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// shimName is as much of containerd-shim-runc-v2 as the kernel keeps.
const shimName = "containerd-shim"

// process is a line of the table of processes.
type process struct {
	pid, parent int
	name        string
	zombie      bool
}

// mainProcesses are those that are told to end with the container: the first one of
// each pod's containers, whose parent is a shim, and orphans. Others are theirs to end.
func mainProcesses(all []process, self, child int) []int {
	shims := map[int]bool{}
	for _, p := range all {
		if p.name == shimName {
			shims[p.pid] = true
		}
	}
	var out []int
	for _, p := range all {
		if p.zombie || p.pid == self || p.pid == child || shims[p.pid] {
			continue
		}
		if shims[p.parent] || p.parent == self {
			out = append(out, p.pid)
		}
	}
	slices.Sort(out)
	return out
}

// processes reads the table; a process that ends meanwhile is not in it.
func processes() []process {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	var all []process
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if p, ok := parseStat(data); ok {
			all = append(all, p)
		}
	}
	return all
}

// parseStat reads the beginning of /proc/PID/stat: 7 (a name) S 1 …; the name may
// have blanks and parentheses of its own.
func parseStat(data []byte) (process, bool) {
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return process{}, false
	}
	rest := strings.Fields(string(data[end+1:]))
	if len(rest) < 2 {
		return process{}, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data[:open])))
	if err != nil {
		return process{}, false
	}
	parent, err := strconv.Atoi(rest[1])
	if err != nil {
		return process{}, false
	}
	return process{pid: pid, parent: parent, name: string(data[open+1 : end]), zombie: rest[0] == "Z" || rest[0] == "X"}, true
}
