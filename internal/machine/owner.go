package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/limpetio/limpet/internal/filelock"
)

// LockOwner is the pid of the process that has the data directory; 0 if none has.
func LockOwner(dataDir string) (pid int, err error) {
	f, err := os.OpenFile(lockFile(dataDir), os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look who has the data directory: %w", err)
	}
	defer filelock.Release(f)
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if err == nil {
		return 0, nil
	}
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return 0, fmt.Errorf("look who has the data directory: %w", err)
	}
	if _, err := fmt.Fscan(f, &pid); err != nil || pid <= 0 {
		return 0, fmt.Errorf("somebody has the data directory %s, but %s does not say who; fuser %[2]s may", dataDir, lockFile(dataDir))
	}
	return pid, nil
}

// Systemd tells whether systemd runs this machine, as sd_booted(3) does.
func Systemd() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}
