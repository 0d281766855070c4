// Package atomicfile replaces whole files so that a reader, or a machine that
// loses power at any moment, sees either the old content or the new one.
//
// It differs from github.com/google/renameio in two ways that matter here: the
// directory is synced too, so that what was reported as stored is stored, and
// the mode is always the one asked for.
package atomicfile

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces the file at path by data with exactly the permission bits of
// mode, whatever the umask says. The content is on disk when Write returns:
// the temporary file is fsynced before it is renamed, the directory after it.
//
// The temporary file is hidden (".NAME.tmp-RANDOM") and in the same directory,
// which must exist. When Write fails, the file at path is as it was before.
// A symbolic link at path is replaced, not followed.
func Write(path string, data []byte, mode fs.FileMode) (err error) {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	tmp, err := os.CreateTemp(dir, "."+name+".tmp-*") // made 0600, so secrets are never readable by others
	if err != nil {
		return fmt.Errorf("write %s: create temporary file: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = tmp.Close() // closing twice is harmless
			_ = os.Remove(tmp.Name())
		}
	}()
	if _, err = tmp.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err = tmp.Chmod(mode.Perm()); err != nil {
		return fmt.Errorf("write %s: set mode: %w", path, err)
	}
	if err = tmp.Sync(); err != nil {
		return fmt.Errorf("write %s: sync: %w", path, err)
	}
	if err = tmp.Close(); err != nil {
		return fmt.Errorf("write %s: close: %w", path, err)
	}
	if err = os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("write %s: rename: %w", path, err)
	}
	if err := SyncDir(dir); err != nil { // the new file is in place: nothing to take back
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// WriteIfChanged is Write, except that a regular file which already has this
// content and mode is left untouched. It reports whether it wrote: callers use
// that to spare flash storage and to skip reloads.
func WriteIfChanged(path string, data []byte, mode fs.FileMode) (changed bool, err error) {
	if same(path, data, mode) {
		return false, nil
	}
	if err := Write(path, data, mode); err != nil {
		return false, err
	}
	return true, nil
}

// same reports whether path is a regular file with this content and mode. Any
// doubt (it cannot be read, say) counts as different: Write then names the
// trouble or heals it.
func same(path string, data []byte, mode fs.FileMode) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != mode.Perm() || info.Size() != int64(len(data)) {
		return false
	}
	old, err := os.ReadFile(path)
	return err == nil && bytes.Equal(old, data)
}

// SyncDir makes what was created, renamed or removed in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory to sync it: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
