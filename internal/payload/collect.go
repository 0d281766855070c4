package payload

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// procDir is where processes are looked for.
const procDir = "/proc"

// collect removes from the store every payload directory but keep, the one `current`
// points to, and those in use. proc is where /proc is mounted.
func collect(ctx context.Context, store, keep, proc string) (removed []string, err error) {
	names, err := oldPayloads(store, keep)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	unlock, err := lock(ctx, store)
	if err != nil {
		return nil, fmt.Errorf("lock payload directory: %w", err)
	}
	defer unlock()
	// Again with the lock held: another limpet may have made one of them current.
	if names, err = oldPayloads(store, keep); err != nil {
		return nil, err
	}
	used, err := inUse(ctx, proc, names)
	if err != nil {
		return nil, fmt.Errorf("find users of old payloads: %w", err) // removing on half the knowledge is worse than not removing
	}
	var errs []error
	for _, name := range names {
		if used[name] {
			continue
		}
		if err := remove(store, name); err != nil {
			errs = append(errs, fmt.Errorf("remove old payload: %w", err))
			continue
		}
		removed = append(removed, name)
	}
	return removed, errors.Join(errs...)
}

// oldPayloads returns the names of the payload directories that are neither keep
// nor current.
func oldPayloads(store, keep string) ([]string, error) {
	entries, err := os.ReadDir(store)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list payload directory: %w", err)
	}
	current, err := os.Readlink(filepath.Join(store, currentName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read current payload: %w", err)
	}
	var names []string
	for _, e := range entries {
		if n := e.Name(); e.IsDir() && isSHA256(n) && n != keep && n != filepath.Base(current) {
			names = append(names, n)
		}
	}
	return names, nil
}

// remove moves a payload out of its name first, so that no half of it is ever taken
// for a whole.
func remove(store, name string) error {
	staging := filepath.Join(store, stagingName)
	if err := os.RemoveAll(staging); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(store, name), staging); err != nil {
		return err
	}
	return os.RemoveAll(staging)
}

// inUse returns those of the names that a process executes or maps files of, or that
// something is mounted in. A name is a sha256, so finding it in a path is enough:
// paths of processes in other mount namespaces and containers begin differently.
func inUse(ctx context.Context, proc string, names []string) (map[string]bool, error) {
	used := map[string]bool{}
	mark := func(text []byte) {
		for _, n := range names {
			if !used[n] && bytes.Contains(text, []byte("/"+n)) {
				used[n] = true
			}
		}
	}
	mounts, err := os.ReadFile(filepath.Join(proc, "self/mountinfo"))
	if err != nil {
		return nil, err
	}
	mark(mounts)

	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := markProcess(filepath.Join(proc, e.Name()), mark); err != nil {
			return nil, err
		}
	}
	return used, nil
}

// markProcess gives the paths of what a process executes and maps to mark. Of a
// process that may not be inspected (it has more capabilities than this one) only the
// command line is looked at, which names a shim's path as well. A process that ends
// meanwhile, and a kernel thread, has nothing to tell.
func markProcess(dir string, mark func([]byte)) error {
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return unlessHidden(err)
	}
	mark(cmdline)
	exe, err := os.Readlink(filepath.Join(dir, "exe"))
	if err != nil {
		return unlessHidden(err)
	}
	mark([]byte(exe))
	maps, err := os.Open(filepath.Join(dir, "maps"))
	if err != nil {
		return unlessHidden(err)
	}
	defer func() { _ = maps.Close() }()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		if i := bytes.IndexByte(lines.Bytes(), '/'); i >= 0 {
			mark(lines.Bytes()[i:])
		}
	}
	return unlessHidden(lines.Err())
}

// unlessHidden returns nil for the errors of a process that has ended, has no
// executable, or may not be inspected.
func unlessHidden(err error) error {
	for _, hidden := range []error{fs.ErrNotExist, fs.ErrPermission, unix.ESRCH} {
		if errors.Is(err, hidden) {
			return nil
		}
	}
	return err
}
