// Package memory keeps a process that once needed much memory for its start
// small afterwards. The figures are from `make bench-idle` and `make
// bench-start`; see docs/how-it-works.md.
package memory

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// startPercent and idlePercent are GOGC while starting and from then on. An
	// idle server's live heap is about 110 MB, so each 10 % are 11 MB that do
	// nothing. A start with 200 was not measurably faster than one with 75, and
	// left the heap so scattered that 50 MB more stayed in use.
	startPercent = 75
	idlePercent  = 40
	// settleAfter is when the caches of the start have been filled. From then on
	// what a burst of work has left behind is given back every releaseEvery; the
	// collection that this takes, about 0.2 s, is 0.07 % of one core.
	settleAfter  = 15 * time.Second
	releaseEvery = 5 * time.Minute
)

// Settler is the component that makes the process small once it has started.
type Settler struct {
	log  *slog.Logger
	user bool // GOGC is set in the environment: the user decides
}

// Starting sets the garbage collector for the start and returns the component
// that sets it for the time after it.
func Starting(log *slog.Logger) *Settler {
	s := &Settler{log: log, user: os.Getenv("GOGC") != ""}
	if !s.user {
		debug.SetGCPercent(startPercent)
	}
	return s
}

// Name implements component.Component.
func (s *Settler) Name() string { return "memory" }

// Run waits until the start has settled, then gives back what it needed, and so
// on.
func (s *Settler) Run(ctx context.Context, ready func()) error {
	ready()
	t := time.NewTimer(settleAfter)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil
	}
	if !s.user {
		debug.SetGCPercent(idlePercent)
	}
	for {
		debug.FreeOSMemory()
		if err := releaseProgram(); err != nil {
			s.log.Debug("pages of the program stay mapped", "error", err)
		}
		t.Reset(releaseEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// releaseProgram unmaps the pages of the executable that the start has touched:
// parsers, schemas, initialisers. They stay in the page cache, where the kernel
// may drop them when memory is short, and come back one by one if they are
// needed again. Only read-only mappings of the file are touched.
func releaseProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	areas, err := programAreas(maps, exe)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range areas {
		// By number: a pointer to text is nothing that Go would make a slice of.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, a.from, a.to-a.from, unix.MADV_DONTNEED); errno != 0 {
			errs = append(errs, fmt.Errorf("release %x-%x: %w", a.from, a.to, errno))
		}
	}
	return errors.Join(errs...)
}

// area is a range of addresses.
type area struct{ from, to uintptr }

// programAreas finds the mappings of exe that nobody can have written to, in the
// format of /proc/PID/maps (proc_pid_maps(5)).
func programAreas(maps io.Reader, exe string) ([]area, error) {
	var areas []area
	scanner := bufio.NewScanner(maps)
	for scanner.Scan() {
		f := strings.Fields(scanner.Text())
		if len(f) < 6 || strings.Join(f[5:], " ") != exe || strings.Contains(f[1], "w") || !strings.HasSuffix(f[1], "p") {
			continue
		}
		var a area
		if n, err := fmt.Sscanf(f[0], "%x-%x", &a.from, &a.to); n != 2 || err != nil || a.to <= a.from {
			return nil, fmt.Errorf("unexpected line in maps: %q", scanner.Text())
		}
		areas = append(areas, a)
	}
	return areas, scanner.Err()
}
