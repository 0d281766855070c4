// Package reserve keeps a file on the disk of the data directory whose space is
// given back when limpet starts on a full disk.
//
// A start has to write: containerd stores the status of every container that it
// finds again, and one that it cannot store is lost to it, so that the kubelet
// makes a second container beside the one that runs. Without a block to spare, a
// restart would do to the pods what the full disk did not.
package reserve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpetio/limpet/internal/component"
)

// Name of the component, and of the file in the data directory.
const Name = "reserve"

const (
	// size is for the status of a few hundred containers, which is a block each,
	// and for what limpet, containerd and the kubelet write beside.
	size = 16 << 20
	// spare is the free space with which a missing reserve is made.
	spare = 4 * size
	// again is when a disk without that space is looked at again.
	again = time.Minute
)

// Release removes the reserve if the disk has less space than it holds. It is
// called before anything else of a start writes. That a disk cannot be looked at
// is no reason not to start: what needs it will tell.
func Release(dataDir string, log *slog.Logger) {
	log = log.With("component", Name)
	path := filepath.Join(dataDir, Name)
	switch free, err := freeBytes(dataDir); {
	case err != nil:
		log.Warn("cannot tell how full the disk is", "error", err)
	case free < size:
		if err := os.Remove(path); err == nil {
			log.Warn("the disk is full: gave back the space that is kept for a start; free some, the node can do little without",
				"directory", dataDir, "free", free, "reserve", size)
		} else if !errors.Is(err, fs.ErrNotExist) {
			log.Warn("the disk is full, and the space that is kept for a start could not be given back", "error", err)
		}
	}
}

// Keeper makes the reserve when it is missing and the disk has space for it.
func Keeper(dataDir string, log *slog.Logger) component.Component {
	return component.Func(Name, func(ctx context.Context, ready func()) error {
		ready()
		return keep(ctx, dataDir, log.With("component", Name), again)
	})
}

// keep returns when there is a reserve.
func keep(ctx context.Context, dataDir string, log *slog.Logger, pause time.Duration) error {
	for told := ""; ; {
		err := ensure(dataDir)
		if err == nil {
			return nil
		}
		if told != err.Error() {
			told = err.Error()
			log.Warn("no space is kept for a start on a full disk", "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// ensure makes the reserve unless it is there.
func ensure(dataDir string) error {
	path := filepath.Join(dataDir, Name)
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() && allocated(info) >= size {
		return nil
	}
	switch free, err := freeBytes(dataDir); {
	case err != nil:
		return err
	case free < spare:
		return fmt.Errorf("%s has %d MiB free, a reserve is made from %d MiB on", dataDir, free>>20, spare>>20)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	if err = fill(f); err == nil {
		return f.Close()
	}
	_ = f.Close()
	_ = os.Remove(path) // half of it is none
	return fmt.Errorf("reserve %d MiB in %s: %w", size>>20, path, err)
}

func fill(f *os.File) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	block := make([]byte, 1<<20)
	for range size / len(block) {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return nil
}

func allocated(info fs.FileInfo) int64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return st.Blocks * 512
}

// freeBytes is what everybody may use. What is kept for root would do as well, but
// ext4 counts blocks as free that it keeps for itself, up to 16 MiB of them, and
// only leaves both out of the same number.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // 32 bits on arm
}
