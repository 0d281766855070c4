// Package filelock locks files against other processes, by flock(2). The kernel
// releases a lock when the process ends, however it ends.
package filelock

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrHeld means that another open file has the lock.
var ErrHeld = errors.New("locked by another process")

// Try takes the lock of an open file for it alone, without waiting. It fails
// with ErrHeld if somebody has it.
func Try(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrHeld
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// Release gives the lock back and closes the file. Closing alone would not do: a
// child process that is being started has a copy of the descriptor until it
// executes its program, and with it the lock.
func Release(f *os.File) {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN)
	_ = f.Close()
}

// Sign writes this process's pid into a file that it has locked, for whoever finds
// the lock held.
func Sign(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	return err
}
