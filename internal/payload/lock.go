package payload

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lock takes the exclusive lock of a store and returns the function that releases
// it. It waits for other processes until ctx is done. The kernel releases the lock of
// a process that dies.
func lock(ctx context.Context, store string) (unlock func(), _ error) {
	f, err := os.OpenFile(filepath.Join(store, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	release := func() {
		// By name: a child process that is being started has a copy of the
		// descriptor for a moment, and closing ours would leave it the lock.
		_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
		_ = f.Close()
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		if err != nil {
			release()
			return nil, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
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
