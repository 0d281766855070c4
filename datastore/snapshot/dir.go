package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/limpetio/limpet/datastore/sqlog"
	"github.com/limpetio/limpet/internal/filelock"
)

const (
	lockName   = ".lock"
	tempPrefix = ".tmp-"
	// lockRetry is how often a lock that somebody else holds is tried again.
	// A blocking flock could not be given up when ctx is done.
	lockRetry = 100 * time.Millisecond
)

// lockDir makes the directory this process's own, waits for whoever has it, and
// removes what others left behind.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock snapshot directory %s: %w", dir, err)
	}
	for {
		err := filelock.Try(f)
		if err == nil {
			break
		}
		if errors.Is(err, filelock.ErrHeld) {
			select {
			case <-ctx.Done():
				err = fmt.Errorf("somebody else works with it: %w", ctx.Err())
			case <-time.After(lockRetry):
				continue
			}
		}
		_ = f.Close()
		return nil, fmt.Errorf("lock snapshot directory %s: %w", dir, err)
	}
	if err := removeTemps(dir); err != nil {
		filelock.Release(f)
		return nil, fmt.Errorf("remove what is left of an interrupted snapshot: %w", err)
	}
	return func() { filelock.Release(f) }, nil
}

func locked(ctx context.Context, dir string, fn func() error) error {
	unlock, err := lockDir(ctx, dir)
	if err != nil {
		return err
	}
	defer unlock()
	return fn()
}

func removeTemps(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// requireSpace fails early: a disk that is filled up for a moment by a snapshot
// is full for the datastore as well.
func requireSpace(dir string, need int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look for free space in %s: %w", dir, err)
	}
	free := int64(st.Bavail) * int64(st.Bsize) //nolint:unconvert // 32 bits on arm
	if free < need {
		return fmt.Errorf("%w: %s has %d MiB free and %d MiB are needed; free some space or choose another directory",
			sqlog.ErrNoSpace, dir, free>>20, (need+(1<<20)-1)>>20)
	}
	return nil
}

// noSpace gives ENOSPC the name that callers look for.
func noSpace(err error) error {
	if (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) && !errors.Is(err, sqlog.ErrNoSpace) {
		return fmt.Errorf("%w: %w", sqlog.ErrNoSpace, err)
	}
	return err
}

// openRegular opens a file for reading, but nothing that is none: a named pipe
// would wait for ever.
func openRegular(path string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return f, info, nil
}
