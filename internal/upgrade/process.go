package upgrade

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/status"
)

// RestartSignal has a running limpet begin anew in place, with the same pid, as
// the binary that is installed now. It is for a limpet that no service manager
// that we know has started: whoever has goes on watching the same process.
const RestartSignal = syscall.SIGUSR2

// How a process without a service manager is treated.
const (
	inPlaceTimeout = 60 * time.Second // limpet stops in order within 25 s
	endTimeout     = 40 * time.Second
	respawnTimeout = 10 * time.Second // for an unknown supervisor to start it again
)

// command is how limpet was started. Its environment may hold a token: the file
// is 0600.
type command struct {
	Args []string `json:"args"`
	Env  []string `json:"env"`
	Dir  string   `json:"dir"`
	Log  string   `json:"log"` // where its output goes; empty: nowhere that could be opened again
}

func commandFile(dataDir string) string { return filepath.Join(dir(dataDir), "command.json") }

// looseProcess is a limpet that was started by hand or by something unknown.
type looseProcess struct {
	dataDir, installed string
	missing            int
}

// remember keeps how the running limpet was started.
func remember(dataDir string, pid int) error {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	args, errArgs := os.ReadFile(filepath.Join(proc, "cmdline"))
	env, errEnv := os.ReadFile(filepath.Join(proc, "environ"))
	cwd, errDir := os.Readlink(filepath.Join(proc, "cwd"))
	if err := errors.Join(errArgs, errEnv, errDir); err != nil {
		return fmt.Errorf("look how limpet was started: %w", err)
	}
	c := command{Args: zeroTerminated(args), Env: zeroTerminated(env), Dir: cwd}
	if out, err := os.Readlink(filepath.Join(proc, "fd", "2")); err == nil {
		if info, err := os.Stat(out); err == nil && info.Mode().IsRegular() {
			c.Log = out
		}
	}
	if len(c.Args) < 2 {
		return fmt.Errorf("limpet (pid %d) has no command line that could be repeated", pid)
	}
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("render how limpet was started: %w", err)
	}
	return atomicfile.Write(commandFile(dataDir), data, 0o600)
}

func zeroTerminated(data []byte) []string {
	var list []string
	for part := range bytes.SplitSeq(bytes.TrimSuffix(data, []byte{0}), []byte{0}) {
		list = append(list, string(part))
	}
	return list
}

// process is one of the machine's.
type process struct {
	pid  int
	args []string
}

// isLimpet tells a server or agent from other commands of the same binary.
func (p process) isLimpet() bool {
	return len(p.args) > 1 && (p.args[1] == "server" || p.args[1] == "agent")
}

func (p process) path() string {
	path, err := exeOf(p.pid)
	if err != nil {
		return ""
	}
	return path
}

func processes() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var list []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")); err == nil && len(args) > 0 { // else a kernel thread, or it has ended
			list = append(list, process{pid: pid, args: zeroTerminated(args)})
		}
	}
	return list, nil
}

// pid: a limpet that waits for something at its start has no lock yet, and a
// binary that fails at everything never has: so it is looked for by its program.
func (l *looseProcess) pid(context.Context) (int, error) {
	list, err := processes()
	if err != nil {
		return 0, err
	}
	self, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(list, func(p process) bool {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", p.pid))
		return err == nil && ns == self && p.isLimpet() && (p.path() == l.installed ||
			runs(p.pid, stagedFile(l.dataDir)) || runs(p.pid, previousFile(l.dataDir)))
	})
	if i < 0 {
		return 0, nil
	}
	return list[i].pid, nil
}

func (l *looseProcess) ends(ctx context.Context) int {
	if pid, err := l.pid(ctx); err != nil || pid != 0 {
		l.missing = 0
		return 0
	}
	l.missing++
	return l.missing / 5 // looks, which are a second or more apart
}

func (l *looseProcess) stop(ctx context.Context) error {
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		pid, err := l.pid(ctx)
		if err != nil || pid == 0 {
			return err
		}
		if err := unix.Kill(pid, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end limpet (pid %d): %w", pid, err)
		}
		if err := await(ctx, endTimeout, func() bool { return !alive(pid) }); err == nil {
			return nil // should somebody start it again meanwhile, it waits: see Boot
		} else if ctx.Err() != nil {
			return err
		}
	}
	return errors.New("limpet does not end")
}

func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

func (l *looseProcess) start(ctx context.Context) error {
	pid, err := l.pid(ctx)
	if err != nil {
		return err
	}
	if runs(pid, l.installed) {
		return nil
	}
	if pid != 0 && l.inPlace(ctx, pid) {
		return nil
	}
	if err := l.stop(ctx); err != nil {
		return err
	}
	started := func() bool {
		pid, err := l.pid(ctx)
		return err == nil && runs(pid, l.installed)
	}
	if await(ctx, respawnTimeout, started) == nil {
		return nil // by whoever started it at first
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return l.spawn()
}

// inPlace asks the process to become the new binary. It reports whether it did.
// One that does not say its state does not listen for the signal either.
func (l *looseProcess) inPlace(ctx context.Context, pid int) bool {
	if report, err := status.Fetch(ctx, status.Socket); err != nil || report.PID != pid {
		return false
	}
	if unix.Kill(pid, RestartSignal) != nil {
		return false
	}
	return await(ctx, inPlaceTimeout, func() bool { return !alive(pid) || runs(pid, l.installed) }) == nil && alive(pid)
}

// spawn starts limpet as it was started, in a session of its own.
func (l *looseProcess) spawn() error {
	data, err := os.ReadFile(commandFile(l.dataDir))
	if err != nil {
		return fmt.Errorf("look how limpet was started: %w", err)
	}
	var c command
	if err := json.Unmarshal(data, &c); err != nil || len(c.Args) < 2 {
		return fmt.Errorf("read %s: it does not say how limpet was started: %w", commandFile(l.dataDir), err)
	}
	cmd := &exec.Cmd{Path: l.installed, Args: c.Args, Env: c.Env, Dir: c.Dir, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	if c.Log == "" {
		c.Log = filepath.Join(dir(l.dataDir), "limpet.log")
	}
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open a log for limpet: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start limpet: %w", err)
	}
	go func() { _ = cmd.Wait() }() // so that it is no zombie should it end
	return nil
}

// await looks every 200 ms until done, or for so long.
func await(ctx context.Context, limit time.Duration, done func() bool) error {
	end := time.Now().Add(limit)
	for !done() {
		if time.Now().After(end) {
			return fmt.Errorf("not within %v", limit)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
