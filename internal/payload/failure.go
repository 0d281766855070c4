package payload

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrNoExec is returned when the data directory is on a file system mounted noexec.
var ErrNoExec = errors.New("programs cannot be executed there")

// NoSpaceError is returned when the file system is too full for the payload.
type NoSpaceError struct {
	Dir  string
	Need int64 // bytes that the payload takes on this file system
	Free int64 // bytes free
}

func (e *NoSpaceError) Error() string {
	return fmt.Sprintf("no space at %s: the payload needs %d bytes and %d are free; free at least %d bytes or choose another file system with --data-dir",
		e.Dir, e.Need, e.Free, max(e.Need-e.Free, 0))
}

// Is makes errors.Is(err, unix.ENOSPC) true.
func (e *NoSpaceError) Is(target error) bool { return target == unix.ENOSPC }

// explain adds to an error of the file system at dir what a person can do about it.
// need is what the payload takes in bytes, 0 if not known yet.
func explain(err error, dir string, need int64) error {
	var full *NoSpaceError
	switch {
	case errors.As(err, &full):
		return full
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		_, free, _ := fileSystem(dir) // 0 free is close to the truth
		return fmt.Errorf("%w (%w)", &NoSpaceError{Dir: dir, Need: need, Free: free}, err)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: mount that file system writable or choose another with --data-dir", err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: run limpet as root, or choose a directory of your own with --data-dir", err)
	case errors.Is(err, unix.EIO):
		return fmt.Errorf("%w: the disk reports errors (see the kernel log); replace it or choose another with --data-dir", err)
	}
	return err
}

// checkExec refuses a directory whose file system is mounted noexec.
func checkExec(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	if int64(st.Flags)&unix.ST_NOEXEC != 0 { //nolint:unconvert // 32 bits on arm
		return fmt.Errorf("%w: %s is on a file system mounted noexec; remount it (mount -o remount,exec MOUNTPOINT) or choose another with --data-dir", ErrNoExec, dir)
	}
	return nil
}

// fileSystem returns the block size and the free bytes of dir's file system,
// including what is reserved for root: the attempt itself decides about that.
func fileSystem(dir string) (block, free int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	block = int64(st.Bsize) //nolint:unconvert // 32 bits on arm
	return max(block, 512), int64(st.Bfree) * block, nil
}

// diskBytes returns what a payload takes on a file system with blocks of the given
// size: whole blocks for each file, and one for its directory entry and inode.
func diskBytes(m manifest, manifestSize, block int64) int64 {
	blocks := func(size int64) int64 { return (size+block-1)/block + 1 }
	n := blocks(manifestSize)
	for _, f := range m.files {
		n += blocks(f.size)
	}
	return n * block
}
