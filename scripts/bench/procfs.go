package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// clockTick is the unit of times in /proc/PID/stat: USER_HZ, which is 100 on
// every architecture that Go knows (sysconf(_SC_CLK_TCK)).
const clockTick = time.Second / 100

// processStat is what of /proc/PID/stat is used.
type processStat struct {
	name  string
	cpu   time.Duration // user and system, all threads
	start time.Duration // since boot
}

// parseStat reads /proc/PID/stat; see proc_pid_stat(5). The name may hold
// blanks and parentheses, so the fields are counted from the last one.
func parseStat(data []byte) (processStat, error) {
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if open < 0 || end < open {
		return processStat{}, errors.New("stat of a process has no name")
	}
	fields := strings.Fields(string(data[end+1:]))
	const first = 3 // the number of the field that follows the name
	tick := func(field int) (time.Duration, error) {
		if field-first >= len(fields) {
			return 0, fmt.Errorf("stat of a process has no field %d", field)
		}
		n, err := strconv.ParseUint(fields[field-first], 10, 63)
		return time.Duration(n) * clockTick, err
	}
	user, err1 := tick(14)
	system, err2 := tick(15)
	start, err3 := tick(22)
	return processStat{name: string(data[open+1 : end]), cpu: user + system, start: start}, errors.Join(err1, err2, err3)
}

func readStat(pid int) (processStat, error) {
	data, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return processStat{}, err
	}
	return parseStat(data)
}

// startOf is when a process began, to 10 ms.
func startOf(pid int) (time.Time, error) {
	stat, err := readStat(pid)
	if err != nil {
		return time.Time{}, err
	}
	var boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return time.Time{}, fmt.Errorf("time since boot: %w", err)
	}
	return time.Now().Add(stat.start - time.Duration(boot.Nano())), nil
}

// keyed finds "KEY: VALUE [UNIT]" in files such as smaps_rollup, io and status.
func keyed(data []byte, key string) (uint64, bool) {
	for line := range strings.Lines(string(data)) {
		name, rest, ok := strings.Cut(line, ":")
		if !ok || name != key {
			continue
		}
		if f := strings.Fields(rest); len(f) > 0 {
			v, err := strconv.ParseUint(f[0], 10, 64)
			return v, err == nil
		}
	}
	return 0, false
}

// memory of a process, in bytes.
type memory struct{ pss, anonymous uint64 }

func (m memory) add(o memory) memory { return memory{m.pss + o.pss, m.anonymous + o.anonymous} }

func readMemory(pid int) (memory, error) {
	data, err := os.ReadFile(procFile(pid, "smaps_rollup"))
	if err != nil {
		return memory{}, err
	}
	pss, ok1 := keyed(data, "Pss")
	anonymous, ok2 := keyed(data, "Anonymous")
	if !ok1 || !ok2 {
		return memory{}, fmt.Errorf("memory of process %d: smaps_rollup lacks Pss or Anonymous", pid)
	}
	return memory{pss << 10, anonymous << 10}, nil
}

// written is what a process wrote, in bytes.
type written struct {
	device uint64 // pages it made dirty for a block device (write_bytes)
	calls  uint64 // everything handed to write(2) and its kin, sockets too (wchar)
}

func readWritten(pid int) (written, error) {
	data, err := os.ReadFile(procFile(pid, "io"))
	if err != nil {
		return written{}, err
	}
	device, ok1 := keyed(data, "write_bytes")
	calls, ok2 := keyed(data, "wchar")
	if !ok1 || !ok2 {
		return written{}, fmt.Errorf("bytes written by process %d: write_bytes or wchar is missing", pid)
	}
	return written{device, calls}, nil
}

// readSwitches counts the context switches of each thread: each is a wake-up,
// or the end of one.
func readSwitches(pid int) (map[string]uint64, error) {
	files, err := filepath.Glob(procFile(pid, "task/*/status"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("threads of process %d: none found", pid)
	}
	switches := make(map[string]uint64, len(files))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		voluntary, _ := keyed(data, "voluntary_ctxt_switches")
		forced, _ := keyed(data, "nonvoluntary_ctxt_switches")
		switches[file] = voluntary + forced
	}
	return switches, nil
}

// switchesBetween adds up the switches of all threads that live at the end.
func switchesBetween(before, after map[string]uint64) uint64 {
	var sum uint64
	for thread, n := range after {
		sum += n - before[thread]
	}
	return sum
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}
