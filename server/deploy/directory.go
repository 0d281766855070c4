package deploy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxFileSize is the largest manifest that is read, in bytes.
const maxFileSize = 5 << 20

// skipSuffix marks a file whose objects are to be left alone.
const skipSuffix = ".skip"

// scanner reads the manifests directory.
type scanner struct {
	dir      string
	origin   origin
	disabled map[string]bool
	// visit is called for every directory before it is read, so that a watch
	// set up there misses nothing.
	visit func(dir string) error
}

// scan returns every manifest below the directory. A file that cannot be used
// is in the result with its problem; a directory that cannot be read is an
// error of the whole scan, because what it holds is then unknown.
func (s *scanner) scan() ([]file, error) {
	root, err := os.OpenRoot(s.dir) // links cannot lead out of it
	if err != nil {
		return nil, fmt.Errorf("open manifests directory: %w", err)
	}
	defer root.Close()
	var paths []string
	skips := make(map[string]bool)
	err = fs.WalkDir(root.FS(), ".", func(p string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && p != ".":
			return nil // removed while we look
		case err != nil:
			return err
		case p != "." && strings.HasPrefix(entry.Name(), "."):
			if entry.IsDir() {
				return fs.SkipDir
			}
		case entry.IsDir():
			return s.visit(filepath.Join(s.dir, p))
		case strings.HasSuffix(p, skipSuffix):
			skips[strings.TrimSuffix(p, skipSuffix)] = true
		case isManifest(entry.Name()):
			paths = append(paths, p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read manifests directory %s: %w", s.dir, err)
	}
	files := make([]file, 0, len(paths))
	for _, p := range paths {
		f, err := s.read(root, p, skips[p])
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			f = brokenFile(fileID{s.origin, p}, err)
		}
		files = append(files, f)
	}
	return files, nil
}

// read loads one file; fs.ErrNotExist means that it was removed meanwhile.
func (s *scanner) read(root *os.Root, p string, skip bool) (file, error) {
	id := fileID{s.origin, p}
	switch {
	case s.disabled[id.component()]:
		return file{id: id, intent: intentRemove}, nil
	case skip:
		return file{id: id, intent: intentSkip}, nil
	}
	before, err := statManifest(root, p)
	if err != nil {
		return file{}, err
	}
	// Without blocking, in case it became a pipe just now.
	handle, err := root.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return file{}, err
	}
	defer handle.Close()
	data, err := io.ReadAll(io.LimitReader(handle, maxFileSize+1))
	if err != nil {
		return file{}, err
	}
	after, err := handle.Stat()
	if err != nil {
		return file{}, err
	}
	if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) || int64(len(data)) != after.Size() || isBeingWritten(handle) {
		return file{id: id, intent: intentWait}, nil
	}
	return newFile(id, data, after.ModTime().UTC().String()), nil
}

// statManifest refuses what is not to be read.
func statManifest(root *os.Root, p string) (fs.FileInfo, error) {
	link, err := root.Lstat(p)
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(p)
	switch {
	case err != nil && link.Mode()&fs.ModeSymlink != 0:
		return nil, errors.New("the symbolic link leads nowhere or out of the manifests directory: put the file itself here")
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, errors.New("it is a symbolic link to a directory, which is not followed: put the directory itself here")
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case info.Size() > maxFileSize:
		return nil, fmt.Errorf("it has %d bytes, more than the %d that are read: split it", info.Size(), maxFileSize)
	}
	return info, nil
}

// isBeingWritten reports whether any process has the file open for writing.
// The kernel grants a read lease only when none has; a file system without
// leases says nothing, and then the file counts as complete.
func isBeingWritten(handle *os.File) bool {
	fd := handle.Fd()
	if _, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		return errors.Is(err, unix.EAGAIN)
	}
	_, _ = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
	return false
}

// readEmbedded returns the embedded manifests with vars put in. dir is the
// manifests directory, where NAME.skip may stand.
func readEmbedded(embedded fs.FS, vars map[string]string, disabled map[string]bool, dir string) ([]file, error) {
	entries, err := fs.ReadDir(embedded, ".")
	if err != nil {
		return nil, fmt.Errorf("list embedded manifests: %w", err)
	}
	var files []file
	for _, entry := range entries {
		id := fileID{originEmbedded, entry.Name()}
		if entry.IsDir() || !isManifest(entry.Name()) {
			continue
		}
		if disabled[id.component()] {
			files = append(files, file{id: id, intent: intentRemove})
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, path.Base(id.path)+skipSuffix)); err == nil {
			files = append(files, file{id: id, intent: intentSkip})
			continue
		}
		data, err := fs.ReadFile(embedded, entry.Name())
		if err != nil {
			return nil, fmt.Errorf("read embedded manifest %s: %w", entry.Name(), err)
		}
		data, err = substitute(data, vars)
		if err != nil {
			return nil, fmt.Errorf("embedded manifest %s: %w", entry.Name(), err)
		}
		f := newFile(id, data, "")
		if f.problem != nil {
			return nil, fmt.Errorf("embedded manifest %s: %w", entry.Name(), f.problem)
		}
		files = append(files, f)
	}
	return files, nil
}
