package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/limpetio/limpet/internal/filelock"
)

// Lock takes the data directory for this process. The kernel gives it back when
// the process ends, however it ends.
func Lock(dataDir string) (release func(), err error) {
	if err := os.MkdirAll(dataDir, 0o755); err != nil {
		return nil, fmt.Errorf("create data directory: %w; another place can be named with --data-dir", err)
	}
	f, err := os.OpenFile(lockFile(dataDir), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory %s cannot be written: %w; is the file system read-only or full? another place can be named with --data-dir", dataDir, err)
	}
	if err := take(f, dataDir); err != nil {
		_ = f.Close()
		return nil, err
	}
	if err := filelock.Sign(f); err != nil {
		filelock.Release(f)
		return nil, fmt.Errorf("write %s: %w", f.Name(), err)
	}
	return func() { filelock.Release(f) }, nil
}

// LockHeld fails if another process has the data directory. It creates nothing.
func LockHeld(dataDir string) error {
	f, err := os.OpenFile(lockFile(dataDir), os.O_RDWR, 0)
	if err != nil {
		return nil //nolint:nilerr // no such file, or Lock will tell
	}
	defer filelock.Release(f)
	return take(f, dataDir)
}

func lockFile(dataDir string) string { return filepath.Join(dataDir, "lock") }

// take locks the file, or says who has it.
func take(f *os.File, dataDir string) error {
	err := filelock.Try(f)
	if errors.Is(err, filelock.ErrHeld) {
		var pid int
		_, _ = fmt.Fscan(f, &pid)
		return fmt.Errorf("another limpet (pid %d) is running on data directory %s; stop it first, or give this one a --data-dir of its own", pid, dataDir)
	}
	return err
}
