package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// process is one of the node's processes.
type process struct {
	pid    int
	name   string // as the kernel has it: at most 15 letters
	memory memory
}

// processes lists every process of the node: those below its cgroup.
func (n *node) processes() ([]process, error) {
	group, err := n.cgroup()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		data, err := os.ReadFile(procFile(pid, "cgroup"))
		if err != nil || !strings.Contains(string(data), "/"+group+"/") {
			continue
		}
		stat, err := readStat(pid)
		if err != nil {
			continue // it has ended
		}
		m, err := readMemory(pid)
		if err != nil {
			continue
		}
		list = append(list, process{pid: pid, name: stat.name, memory: m})
	}
	return list, nil
}

// cgroup is the node's cgroup, below each hierarchy's root: "limpet-test-…/n1".
func (n *node) cgroup() (string, error) {
	data, err := os.ReadFile(procFile(n.init, "cgroup"))
	if err != nil {
		return "", fmt.Errorf("cgroup of the node: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		path, ok := strings.CutSuffix(strings.TrimSpace(line), "/init.scope")
		if i := strings.Index(path, "limpet-test-"); ok && i >= 0 {
			return path[i:], nil
		}
	}
	return "", fmt.Errorf("cgroup of the node: process %d is in none that scripts/cluster made", n.init)
}

// nodeCPU is the CPU time of everything that ever ran in the node: short-lived
// helpers, such as runc, too.
func (n *node) nodeCPU() (time.Duration, error) {
	group, err := n.cgroup()
	if err != nil {
		return 0, err
	}
	for _, mount := range []string{"cpuacct", "cpu,cpuacct"} {
		data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", mount, group, "cpuacct.usage"))
		if err == nil {
			ns, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
			return time.Duration(ns), err
		}
	}
	data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", group, "cpu.stat"))
	if err != nil {
		return 0, fmt.Errorf("CPU time of the node: %w", err)
	}
	return parseCPUStat(data)
}

// parseCPUStat reads the cpu.stat of a v2 cgroup.
func parseCPUStat(data []byte) (time.Duration, error) {
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			us, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return time.Duration(us) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("cpu.stat has no usage_usec")
}

// footprint is the memory of what limpet brings along, without the pods' own.
type footprint struct{ limpet, shims, pause memory }

func (f footprint) all() memory { return f.limpet.add(f.shims).add(f.pause) }

func sumMemory(list []process) footprint {
	var f footprint
	for _, p := range list {
		switch {
		case p.name == "limpet":
			f.limpet = f.limpet.add(p.memory)
		case strings.HasPrefix(p.name, "containerd-shim"):
			f.shims = f.shims.add(p.memory)
		case p.name == "pause":
			f.pause = f.pause.add(p.memory)
		}
	}
	return f
}

// counters are what only grows, at one moment.
type counters struct {
	at       time.Time
	cpu      time.Duration // of the process
	nodeCPU  time.Duration
	written  written
	switches map[string]uint64
}

func (n *node) counters() (counters, error) {
	c, err := processCounters(n.limpet)
	if err != nil {
		return c, fmt.Errorf("limpet: %w", err)
	}
	c.nodeCPU, err = n.nodeCPU()
	return c, err
}

// processCounters are those of one process.
func processCounters(pid int) (counters, error) {
	c := counters{at: time.Now()}
	stat, err := readStat(pid)
	if err != nil {
		return c, err
	}
	c.cpu = stat.cpu
	if c.written, err = readWritten(pid); err != nil {
		return c, err
	}
	c.switches, err = readSwitches(pid)
	return c, err
}

// usageRates are per second; CPU in percent of one core.
type usageRates struct{ cpu, nodeCPU, device, calls, switches float64 }

func rates(a, b counters) usageRates {
	s := b.at.Sub(a.at).Seconds()
	return usageRates{
		cpu:      100 * (b.cpu - a.cpu).Seconds() / s,
		nodeCPU:  100 * (b.nodeCPU - a.nodeCPU).Seconds() / s,
		device:   float64(b.written.device-a.written.device) / s,
		calls:    float64(b.written.calls-a.written.calls) / s,
		switches: float64(switchesBetween(a.switches, b.switches)) / s,
	}
}
