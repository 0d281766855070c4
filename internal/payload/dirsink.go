package payload

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// dirSink writes the files of an archive into a new directory. Access goes through
// os.Root, so that even a path that slipped through every check cannot leave it.
type dirSink struct {
	root  *os.Root
	files []string // relative paths of what was written
	dirs  []string // relative paths of the directories, parents first
	need  int64    // bytes on disk, once the manifest is known
}

func newDirSink(dir string) (*dirSink, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create directory: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open directory: %w", err)
	}
	s := &dirSink{root: root}
	return s, s.addDir(".")
}

// begin refuses to start what cannot be finished: it is better to say at once how
// many bytes are missing than to fill the disk of a running system first.
func (s *dirSink) begin(m manifest, data []byte) error {
	block, free, err := fileSystem(s.root.Name())
	if err != nil {
		return err
	}
	s.need = diskBytes(m, int64(len(data)), block)
	if free < s.need {
		return &NoSpaceError{Dir: s.root.Name(), Need: s.need, Free: free}
	}
	w, err := s.create(manifestFile{path: manifestName, mode: 0o644})
	if err != nil {
		return fmt.Errorf("create %s: %w", manifestName, err)
	}
	_, err = w.Write(data)
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", manifestName, err)
	}
	return nil
}

func (s *dirSink) create(f manifestFile) (io.WriteCloser, error) {
	if err := s.mkdirs(path.Dir(f.path)); err != nil {
		return nil, err
	}
	file, err := s.root.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
	if err != nil {
		return nil, err
	}
	if err := file.Chmod(f.mode); err != nil { // whatever the umask
		_ = file.Close()
		return nil, err
	}
	s.files = append(s.files, f.path)
	return file, nil
}

func (s *dirSink) mkdirs(dir string) error {
	if dir == "." {
		return nil
	}
	if info, err := s.root.Lstat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := s.mkdirs(path.Dir(dir)); err != nil {
		return err
	}
	if err := s.root.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return s.addDir(dir)
}

func (s *dirSink) addDir(dir string) error {
	s.dirs = append(s.dirs, dir)
	if err := s.root.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("set mode of directory: %w", err)
	}
	return nil
}

// sync brings files and directories to the disk. All are written before the first
// is synced: one commit of the file system's journal then carries them all.
func (s *dirSink) sync() error {
	for _, p := range append(s.files, s.dirs...) {
		f, err := s.root.Open(p)
		if err != nil {
			return fmt.Errorf("sync %s: %w", p, err)
		}
		err = f.Sync()
		_ = f.Close() // read only
		if err != nil {
			return fmt.Errorf("sync %s: %w", p, err)
		}
	}
	return nil
}

func (s *dirSink) close() { _ = s.root.Close() }

// swapIn makes the directory staging the one at root, in one step whatever is at
// root: nothing, an older directory or something else. What was there is at staging
// afterwards. The change is on disk on return.
func swapIn(staging, root string) error {
	err := unix.Renameat2(unix.AT_FDCWD, staging, unix.AT_FDCWD, root, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EEXIST) {
		err = unix.Renameat2(unix.AT_FDCWD, staging, unix.AT_FDCWD, root, unix.RENAME_EXCHANGE)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // this file system has no such flags
		err = renameOver(staging, root)
	}
	if err != nil {
		return &fs.PathError{Op: "put payload in place", Path: root, Err: err}
	}
	return atomicfile.SyncDir(path.Dir(root))
}

// renameOver is swapIn in two steps, between which root does not exist. The lock of
// the store keeps others from seeing that, and a crash there is healed by the next
// Unpack.
func renameOver(staging, root string) error {
	old := staging + ".old"
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	switch err := os.Rename(root, old); {
	case err == nil || errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, unix.EXDEV): // overlayfs: root comes from a lower layer
		if err := os.RemoveAll(root); err != nil {
			return err
		}
	default:
		return err
	}
	if err := os.Rename(staging, root); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// setCurrent points the link `current` to name, atomically, unless it does already.
func setCurrent(store, name string) error {
	link := path.Join(store, currentName)
	if to, err := os.Readlink(link); err == nil && to == name {
		return nil
	}
	next := link + ".new"
	if err := os.RemoveAll(next); err != nil {
		return err
	}
	if err := os.Symlink(name, next); err != nil {
		return err
	}
	if err := os.Rename(next, link); err != nil {
		return err
	}
	return atomicfile.SyncDir(store)
}
