package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// probes are how many synced writes tell what a disk's fsync costs.
const probes = 200

// probeDisk describes the disk under a directory: its file system, and how long
// it takes until a page that was appended to a file is durable.
func probeDisk(dir string) (string, error) {
	l, err := syncLatencies(filepath.Join(dir, "probe"))
	if err != nil {
		return "", fmt.Errorf("measure fsync: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, append of 4 KiB and fsync: p50 %.2f ms, p99 %.2f ms", fileSystem(string(mounts), abs), l.p50(), l.p99()), nil
}

func syncLatencies(path string) (latencies, error) {
	var l latencies
	f, err := os.Create(path)
	if err != nil {
		return l, err
	}
	defer os.Remove(path) //nolint:errcheck // the directory goes anyway
	defer f.Close()
	page := make([]byte, 4096)
	for range probes {
		begin := time.Now()
		if _, err := f.Write(page); err != nil {
			return l, err
		}
		if err := f.Sync(); err != nil {
			return l, err
		}
		l.each = append(l.each, time.Since(begin))
	}
	return l, nil
}

// fileSystem finds the type and the device of the file system that a path is on,
// in the text of /proc/self/mountinfo: see proc_pid_mountinfo(5).
func fileSystem(mounts, path string) string {
	found, length := "unknown file system", -1
	for line := range strings.Lines(mounts) {
		before, after, ok := strings.Cut(line, " - ")
		place, what := strings.Fields(before), strings.Fields(after)
		if !ok || len(place) < 5 || len(what) < 2 {
			continue
		}
		point := place[4]
		if !within(path, point) || len(point) < length {
			continue
		}
		found, length = what[0]+" on "+what[1], len(point)
	}
	return found
}

// within reports whether a path is a directory or below it.
func within(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}
