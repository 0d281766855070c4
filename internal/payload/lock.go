package payload

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/limpetio/limpet/internal/filelock"
)

// lock takes the exclusive lock of a store and returns the function that releases
// it. It waits for other processes until ctx is done. The kernel releases the lock of
// a process that dies.
func lock(ctx context.Context, store string) (unlock func(), _ error) {
	f, err := os.OpenFile(filepath.Join(store, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	release := func() { filelock.Release(f) }
	if err := filelock.Try(f); !errors.Is(err, filelock.ErrHeld) {
		if err != nil {
			release()
			return nil, err
		}
		return release, nil
	}

	got := make(chan error, 1)
	go func() { got <- flockWait(f) }()
	select {
	case err := <-got:
		if err != nil {
			release()
			return nil, err
		}
		return release, nil
	case <-ctx.Done():
		go func() { // flock cannot be called off: let go of it as soon as it is there
			<-got //nolint:errcheck // nobody waits for it any more
			release()
		}()
		return nil, ctx.Err()
	}
}

func flockWait(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return &os.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
	}
}
