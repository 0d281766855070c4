// Package containerinit is limpet as the first process of a container. Such a process
// has duties that an init system has elsewhere: it collects orphans (every shim is one),
// passes signals on, and prepares what a machine would have at boot. limpet itself runs
// as its child, as on any machine.
package containerinit

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Times of an end, counted from the signal that asks for it. docker stop kills after
// 10 seconds what is left then.
const (
	// podsGrace is how long limpet has before its pods are told as well.
	podsGrace = 3 * time.Second
	// killGrace is how long all have.
	killGrace = 8 * time.Second
)

// Needed reports whether this process is the first one, and not just a command that
// somebody runs in a container.
func Needed() bool { return os.Getpid() == 1 }

// Status is the error that carries the exit code of the child, which has said itself
// what there was to say.
type Status int

func (Status) Error() string { return "" }

// ExitCode is that of the process.
func (s Status) ExitCode() int { return int(s) }

// Run prepares the container, runs the same command again as a child, and returns nil
// when that has ended with 0, or a Status. By then all other processes are gone.
func Run(args, env []string, log *slog.Logger) error {
	// A control group namespace belongs to a thread, and a child gets that of the
	// thread it is started from.
	runtime.LockOSThread()
	if err := prepare(log); err != nil {
		return fmt.Errorf("prepare the container: %w", err)
	}
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, append(passedOn(), syscall.SIGCHLD)...)
	defer signal.Stop(signals)
	child, err := syscall.ForkExec("/proc/self/exe", args, &syscall.ProcAttr{
		Env: env, Files: []uintptr{0, 1, 2},
		// A group of its own: what the terminal sends to this process's is passed on, once.
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", args[0], err)
	}
	w := ward{child: child, log: log, status: -1, told: map[int]bool{}}
	w.watch(signals)
	if w.status != 0 {
		return Status(w.status)
	}
	return nil
}

// ward looks after the child and all that become orphans.
type ward struct {
	child  int
	log    *slog.Logger
	status int          // of the child; -1 while it runs
	ending time.Time    // when the end began
	told   map[int]bool // processes that were asked to end
}

// watch returns when the child and the containers have ended, or had their time.
func (w *ward) watch(signals <-chan os.Signal) {
	var tick <-chan time.Time // while nothing ends, nothing ticks
	for {
		w.collect()
		if w.status >= 0 && w.ending.IsZero() { // by itself
			w.ending = time.Now()
		}
		if !w.ending.IsZero() {
			if w.ended() {
				break
			}
			// The containers are children of shims: no signal tells of their end.
			tick = time.After(100 * time.Millisecond)
		}
		select {
		case s := <-signals:
			w.signal(s)
		case <-tick:
		}
	}
	// Shims are left, which nobody needs now, and what did not end in time.
	_ = unix.Kill(-1, unix.SIGKILL)
}

func (w *ward) signal(s os.Signal) {
	if s == syscall.SIGCHLD || w.status >= 0 {
		return
	}
	if w.ending.IsZero() && (s == syscall.SIGTERM || s == syscall.SIGINT) {
		w.ending = time.Now()
	}
	_ = unix.Kill(w.child, s.(syscall.Signal)) // it may have ended just now
}

// ended reports whether all have ended or had their time. Containers are asked when
// the child has ended, or takes long.
func (w *ward) ended() bool {
	since := time.Since(w.ending)
	containers := mainProcesses(processes(), os.Getpid(), w.child)
	if w.status >= 0 && len(containers) == 0 {
		return true
	}
	if since >= killGrace {
		w.log.Warn("not everything ended in time: killing what is left", "seconds", killGrace.Seconds(), "limpet", w.status < 0, "containers", len(containers))
		if w.status < 0 {
			w.status = 128 + int(unix.SIGKILL)
		}
		return true
	}
	if w.status >= 0 || since >= podsGrace {
		for _, pid := range containers {
			if !w.told[pid] {
				w.told[pid] = true
				_ = unix.Kill(pid, unix.SIGTERM) // it may have ended just now
			}
		}
	}
	return false
}

// passedOn are the signals that are for the child.
func passedOn() []os.Signal {
	return []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}
}

// collect takes the exit status of every process that has ended.
func (w *ward) collect() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if pid != w.child {
			continue
		}
		w.status = status.ExitStatus()
		if status.Signaled() {
			w.status = 128 + int(status.Signal())
		}
	}
}
