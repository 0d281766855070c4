package uninstall

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// removeTree removes a file or a directory with all that is in it, but follows
// no symbolic link and enters no other file system: what is mounted there,
// a share of another machine say, is not limpet's to delete. If anything is
// mounted below path, nothing is removed.
func removeTree(path string) error {
	list, err := mounts()
	if err != nil {
		return err
	}
	resolved := path
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		resolved = filepath.Join(dir, filepath.Base(path))
	}
	for _, m := range list {
		if m.Point == resolved || below(m.Point, resolved) {
			return fmt.Errorf("remove %s: %s is mounted at %s; unmount it first", path, m.FSType, m.Point)
		}
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return removeWithin(path, info, device(info))
}

// removeContents is removeTree for what is in a directory, which stays: a disk
// may be mounted there. The file with the name keep stays, too.
func removeContents(dir, keep string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != "lost+found" && e.Name() != keep {
			errs = append(errs, removeTree(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func removeWithin(path string, info fs.FileInfo, dev uint64) error {
	if device(info) != dev {
		return fmt.Errorf("remove %s: is on another file system", path)
	}
	var errs []error
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove: %w", err)
		}
		for _, e := range entries {
			child, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = removeWithin(filepath.Join(path, e.Name()), child, dev)
			}
			if err != nil {
				errs = append(errs, err)
			}
		}
	}
	if len(errs) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove: %w", err))
		}
	}
	return errors.Join(errs...)
}

func device(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(stat.Dev) //nolint:unconvert // its type differs between architectures
	}
	return 0
}

// prune removes the empty directories below dir, and dir, and leaves the rest.
func prune(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			prune(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir) // fails, rightly, if anything is left in it
}
