package sqlog

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/limpetio/limpet/internal/filelock"
)

// lock keeps other processes away for as long as the returned file is open. It
// is a lock of its own, on a file of its own: SQLite's locks let two processes
// take turns, and two writers of one log would both hand out the same
// revisions. The kernel releases it when the process dies, however it dies.
// The file stays: removing it would race with the next process.
func lock(path string) (*os.File, error) {
	name := path + ".lock"
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = filelock.Try(f)
	if errors.Is(err, filelock.ErrHeld) {
		defer f.Close()
		return nil, fmt.Errorf("%w: %s is held by %s", ErrInUse, name, holder(f))
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	// Only for people and for the message above: a failure does not matter.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

func holder(f *os.File) string {
	buf := make([]byte, 32)
	n, _ := f.ReadAt(buf, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return "a process that did not leave its pid"
	}
	return "pid " + strconv.Itoa(pid)
}
