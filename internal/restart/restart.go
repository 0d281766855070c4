// Package restart replaces the running process by a new run of the same
// binary, with the same pid. Much of Kubernetes takes facts about the machine
// once, at its start; when such a fact changes, a new start is the one way in
// which everything follows from it. Containers belong to their shims and go on.
package restart

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/limpetio/limpet/internal/sdnotify"
)

// Needed is the error of a run that has to begin anew.
type Needed struct {
	// Reason is what has changed, as a sentence without a full stop.
	Reason string
	// Installed: not this binary is to run, but the one that is where this one was.
	Installed bool
}

func (n *Needed) Error() string { return "a restart is needed: " + n.Reason }

// Image is what a process was started with.
type Image struct {
	args, env []string
	path      string // of the program; empty if nobody knows
}

// Capture remembers how this process was started. It is called before anything
// changes the environment.
func Capture() Image {
	path, err := os.Executable()
	if err != nil {
		path = ""
	}
	return Image{args: slices.Clone(os.Args), env: os.Environ(), path: path}
}

// IfNeeded returns err, unless it says that a restart is needed: then it does
// not return, or it returns why the process could not be replaced.
func (i Image) IfNeeded(err error) error {
	needed := (*Needed)(nil)
	if !errors.As(err, &needed) {
		return err
	}
	i.notifier().Reloading() // READY follows when the new run is up
	// The link, not the path behind it: an upgrade may have put another binary there,
	// which is run only when its guard says so.
	program := "/proc/self/exe"
	if needed.Installed && i.path != "" {
		program = i.path
	}
	execErr := syscall.Exec(program, i.args, i.env)
	return errors.Join(err, fmt.Errorf("start anew in place: %w", execErr))
}

func (i Image) notifier() sdnotify.Notifier {
	for _, entry := range i.env {
		if socket, ok := strings.CutPrefix(entry, sdnotify.SocketVariable+"="); ok {
			return sdnotify.To(socket)
		}
	}
	return sdnotify.To("")
}
