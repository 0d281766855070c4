package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/filelock"
)

// The guard as a service: on disk and enabled while an operation is under way.
// Package created lists these paths, too, for uninstalling in the middle of one.
const (
	guardService = "limpet-upgrade-guard"
	systemdUnit  = "/etc/systemd/system/" + guardService + ".service"
	openrcScript = "/etc/init.d/" + guardService
)

// launchTimeout is how long the guard may take to begin its work.
const launchTimeout = 30 * time.Second

// maxGuardLog is the size, in bytes, from which the guard begins its log anew.
const maxGuardLog = 1 << 20

// errHeld: the guard is at work.
var errHeld = filelock.ErrHeld

// lock takes a lock for this process, whose pid is in it then.
func lock(file string) (release func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock upgrades: %w", err)
	}
	if err := filelock.Try(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	// For EndGuard, and for people.
	if err := filelock.Sign(f); err != nil {
		filelock.Release(f)
		return nil, fmt.Errorf("lock upgrades: %w", err)
	}
	return func() { filelock.Release(f) }, nil
}

func guardLock(dataDir string) string { return filepath.Join(dir(dataDir), "guard.lock") }

// lockGuard takes the lock that says that a guard is at work. Who only looks
// whether one is has it for a moment, too: so it tries for a while.
func lockGuard(ctx context.Context, dataDir string) (release func(), err error) {
	_ = await(ctx, 2*time.Second, func() bool {
		release, err = lock(guardLock(dataDir))
		return !errors.Is(err, errHeld)
	})
	return release, err
}

// guarded reports whether a guard is at work.
func guarded(dataDir string) bool {
	f, err := os.Open(guardLock(dataDir))
	if err != nil {
		return false
	}
	defer filelock.Release(f)
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

// launch has the guard run, unless it does, and returns when it does.
func launch(ctx context.Context, dataDir string, j Journal) error {
	if guarded(dataDir) {
		return nil
	}
	binary := previousFile(dataDir)
	if _, err := os.Stat(binary); err != nil {
		// Better than none: each limpet can be the guard.
		if binary, err = os.Executable(); err != nil {
			return fmt.Errorf("find a binary for the guard of the upgrade: %w", err)
		}
	}
	var err error
	switch j.Service.Manager {
	case Systemd:
		err = launchSystemd(ctx, binary, dataDir)
	case OpenRC:
		err = launchOpenRC(ctx, binary, dataDir)
	default:
		err = launchDetached(ctx, binary, dataDir)
	}
	if err != nil {
		return fmt.Errorf("start the guard of the upgrade: %w", err)
	}
	begun := func() bool {
		if guarded(dataDir) {
			return true
		}
		now, err := Load(dataDir)
		return err == nil && (now.ID != j.ID || now.Final()) // it has been quick
	}
	if err := await(ctx, launchTimeout, begun); err != nil {
		return fmt.Errorf("the guard of the upgrade does not start: %w; is the file system of %s mounted noexec?", err, dataDir)
	}
	return nil
}

// EndGuard ends a guard that no service manager knows, for whoever takes limpet
// off the machine. What it was about goes on when limpet is started again.
func EndGuard(ctx context.Context, dataDir string) error {
	file := guardLock(dataDir)
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		text, err := os.ReadFile(file)
		if err != nil || !guarded(dataDir) {
			return nil //nolint:nilerr // there is none
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || pid <= 1 {
			return fmt.Errorf("the guard of an upgrade is at work, but %s does not say who it is", file)
		}
		if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end the guard of an upgrade (pid %d): %w", pid, err)
		}
		if await(ctx, endTimeout, func() bool { return !guarded(dataDir) }) == nil {
			return nil
		}
	}
	return errors.New("the guard of an upgrade does not end")
}

// unit: nothing in it makes the guard stop when limpet does, or wait for it.
func unit(binary, dataDir string) string {
	quote := func(s string) string {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$").Replace(s) + `"`
	}
	return `# Written by limpet upgrade, which removes it again.
[Unit]
Description=Limpet: watch over an upgrade, and go back if it fails
RequiresMountsFor=` + strings.NewReplacer(`\`, `\\`, " ", `\x20`, "%", "%%").Replace(dataDir) + `
StartLimitIntervalSec=0

[Service]
ExecStart=` + quote(binary) + ` upgrade guard --data-dir ` + quote(dataDir) + `
KillMode=process
Restart=on-failure
RestartSec=10s
OOMScoreAdjust=-999

[Install]
WantedBy=multi-user.target
`
}

func launchSystemd(ctx context.Context, binary, dataDir string) error {
	changed, err := atomicfile.WriteIfChanged(systemdUnit, []byte(unit(binary, dataDir)), 0o644)
	if err != nil {
		return err
	}
	if changed {
		if _, err := run(ctx, commandTimeout, "systemctl", "daemon-reload"); err != nil {
			return err
		}
	}
	// Before it starts: should the power fail now, it starts at the next boot.
	if _, err := run(ctx, commandTimeout, "systemctl", "enable", "--quiet", guardService+".service"); err != nil {
		return err
	}
	_, err = run(ctx, commandTimeout, "systemctl", "start", "--no-block", guardService+".service")
	return err
}

// script: the guard detaches itself, as it ends by itself, which a supervisor
// would take for a failure; and not every start-stop-daemon knows the same options.
func script(binary, dataDir string) string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	return `#!/sbin/openrc-run
# Written by limpet upgrade, which removes it again.
description="Limpet: watch over an upgrade, and go back if it fails"

depend() {
  after localmount
}

start() {
  ebegin "Starting the guard of an upgrade of limpet"
  ` + quote(binary) + ` upgrade guard --detach --data-dir ` + quote(dataDir) + `
  eend $?
}

stop() {
  return 0
}
`
}

func launchOpenRC(ctx context.Context, binary, dataDir string) error {
	if _, err := atomicfile.WriteIfChanged(openrcScript, []byte(script(binary, dataDir)), 0o755); err != nil {
		return err
	}
	if _, err := os.Lstat("/etc/runlevels/default/" + guardService); errors.Is(err, fs.ErrNotExist) {
		if _, err := run(ctx, commandTimeout, "rc-update", "add", guardService, "default"); err != nil {
			return err
		}
	}
	// One that has died is taken for started.
	_, _ = run(ctx, commandTimeout, "rc-service", guardService, "zap")
	_, err := run(ctx, commandTimeout, "rc-service", guardService, "start")
	return err
}

// launchDetached starts a process that starts the guard and ends, so that the
// guard is nobody's child: its parent may be limpet, which is going to be replaced.
func launchDetached(ctx context.Context, binary, dataDir string) error {
	_, err := run(ctx, commandTimeout, binary, "upgrade", "guard", "--detach", "--data-dir", dataDir)
	return err
}

// Detach starts the guard in a session of its own and returns. What it says goes
// to <data>/upgrade/guard.log.
func Detach(dataDir string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this binary: %w", err)
	}
	file := filepath.Join(dir(dataDir), "guard.log")
	if info, err := os.Stat(file); err == nil && info.Size() > maxGuardLog {
		_ = os.Remove(file) // of upgrades long ago
	}
	log, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of the guard: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(self, "upgrade", "guard", "--data-dir", dataDir)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the guard: %w", err)
	}
	return cmd.Process.Release()
}

// withdraw takes the guard out of the boot. It is called by the guard itself, so
// that nothing may be stopped.
func withdraw(ctx context.Context, m Manager) error {
	var errs []error
	remove := func(path string) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	switch m {
	case Systemd:
		if _, err := os.Lstat(systemdUnit); err == nil {
			_, err := run(ctx, commandTimeout, "systemctl", "disable", "--quiet", guardService+".service")
			errs = append(errs, err)
			remove(systemdUnit)
			_, err = run(ctx, commandTimeout, "systemctl", "daemon-reload")
			errs = append(errs, err)
		}
	case OpenRC:
		if _, err := os.Lstat(openrcScript); err == nil {
			_, err := run(ctx, commandTimeout, "rc-update", "del", guardService, "default")
			errs = append(errs, err)
			remove(openrcScript)
			remove("/run/openrc/started/" + guardService)
		}
	}
	return errors.Join(errs...)
}
