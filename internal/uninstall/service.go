package uninstall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpetio/limpet/internal/machine"
	"github.com/limpetio/limpet/internal/upgrade"
)

// usualServices are the names that install.sh gives; the guard ends an upgrade.
func usualServices() []string { return []string{"limpet-upgrade-guard", "limpet", "limpet-agent"} }

// servicesOf are the usual ones and those of other names that install.sh was told.
func servicesOf(installed []string) []string {
	list := usualServices()
	for _, path := range installed {
		name, unit := strings.CutSuffix(filepath.Base(path), ".service")
		if (unit || filepath.Dir(path) == "/etc/init.d") && !strings.HasSuffix(path, "/") && !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list
}

const (
	// stopTimeout is more than limpet itself takes to stop in order.
	stopTimeout    = 40 * time.Second
	serviceTimeout = 2 * time.Minute
)

// stop ends limpet itself: by its service manager, which would start it again
// otherwise, and by its pid if it runs without one.
func (j *job) stop(ctx context.Context) error {
	for _, name := range j.services {
		if err := j.stopService(ctx, name); err != nil {
			return err
		}
	}
	if err := upgrade.EndGuard(ctx, j.DataDir); err != nil {
		return err
	}
	pid, err := machine.LockOwner(j.DataDir)
	if err != nil || pid == 0 {
		return err
	}
	j.say("Stopping limpet (pid %d)", pid)
	free := func() bool {
		owner, err := machine.LockOwner(j.DataDir)
		return err == nil && owner != pid
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop limpet (pid %d): %w", pid, err)
		}
		if await(ctx, stopTimeout, free) {
			return nil
		}
	}
	return fmt.Errorf("limpet (pid %d) does not end; look at what it waits for: cat /proc/%d/stack", pid, pid)
}

func (j *job) stopService(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, serviceTimeout)
	defer cancel()
	switch {
	case machine.Systemd():
		if exec.CommandContext(ctx, "systemctl", "cat", name+".service").Run() != nil {
			return nil // there is no such unit
		}
		j.say("Stopping the service %s", name)
		return run(ctx, "systemctl", "stop", name+".service")
	case exists(filepath.Join("/etc/init.d", name)) && hasProgram("rc-service"):
		j.say("Stopping the service %s", name)
		return run(ctx, "rc-service", "--ifstarted", name, "stop")
	}
	return nil
}

// disable takes a service out of the boot.
func (j *job) disable(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, serviceTimeout)
	defer cancel()
	switch {
	case hasProgram("systemctl") && j.unit(name):
		return run(ctx, "systemctl", "disable", name+".service")
	case hasProgram("rc-update") && exists(filepath.Join("/etc/init.d", name)):
		_ = run(ctx, "rc-update", "del", name) // fails if it was in no runlevel
	}
	return nil
}

// unit tells whether there is a unit file, wherever install.sh was told to put it.
func (j *job) unit(name string) bool {
	return exists(filepath.Join("/etc/systemd/system", name+".service")) ||
		slices.ContainsFunc(j.installed, func(path string) bool { return filepath.Base(path) == name+".service" && exists(path) })
}

// reload lets systemd forget units whose files have gone.
func (j *job) reload(ctx context.Context) error {
	if !machine.Systemd() {
		return nil
	}
	err := run(ctx, "systemctl", "daemon-reload")
	for _, name := range j.services {
		_ = run(ctx, "systemctl", "reset-failed", name+".service") // fails if it has not failed
	}
	return err
}

func hasProgram(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

// run runs a program of the machine; the error holds what it says.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
