package uninstall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpetio/limpet/internal/created"
	"github.com/limpetio/limpet/internal/machine"
	"github.com/limpetio/limpet/internal/payload"
)

// Options of Kill and Uninstall.
type Options struct {
	DataDir string
	// Grace is how long containers get to end by themselves.
	Grace time.Duration
	// KeepData leaves the data directory and /etc/limpet. Uninstall only.
	KeepData bool
	// Out gets what is done, a line for each step.
	Out io.Writer
}

// Left is the error when not all could be removed.
type Left struct{ Things []string }

func (e *Left) Error() string {
	verb := "are"
	if len(e.Things) == 1 {
		verb = "is"
	}
	return fmt.Sprintf("%s %s left:\n  %s\nThis can be run again", count(len(e.Things), "thing"), verb, strings.Join(e.Things, "\n  "))
}

// rounds bounds how often Kill looks again. Containers may start processes, and
// mounts may lie on mounts, while it works; each round leaves less.
const rounds = 5

// job is one run.
type job struct {
	Options
	layout Layout
	record created.Record
	// installed is what install.sh has put here, services are the names of its services.
	installed, services []string
	// reasons say of a thing why it is still there.
	reasons map[string]string
}

// Kill stops limpet and its pods and removes all that they have in the kernel
// and in the run-time directory. Data, configuration and installation stay: the
// next start begins as after a reboot. The error is a *Left if something of
// limpet's could not be removed.
func Kill(ctx context.Context, o Options) error {
	j, err := newJob(o)
	if err != nil {
		return err
	}
	return j.kill(ctx)
}

func newJob(o Options) (*job, error) {
	if err := machine.RequireRoot(); err != nil {
		return nil, errors.New("this must run as root: it ends containers and removes network interfaces")
	}
	j := &job{Options: o, layout: layoutOf(o.DataDir), reasons: map[string]string{}}
	var missing error
	if j.record, missing = created.Find(o.DataDir); missing != nil && !errors.Is(missing, fs.ErrNotExist) {
		j.say("%v; going by the names of things instead", missing)
	}
	var err error
	if j.installed, err = created.Installed(); err != nil {
		return nil, err
	}
	if j.installed == nil {
		j.installed = usual(exists)
	}
	j.services = servicesOf(j.installed)
	return j, nil
}

func (j *job) say(format string, args ...any) { fmt.Fprintf(j.Out, format+"\n", args...) }

func (j *job) kill(ctx context.Context) error {
	if err := j.stop(ctx); err != nil {
		return err
	}
	if exists(j.DataDir) {
		release, err := machine.Lock(j.DataDir) // nobody starts meanwhile
		if err != nil {
			return fmt.Errorf("limpet has started again: %w", err)
		}
		defer release()
	}
	forget, err := findNFT(ctx, j.DataDir)
	if err != nil {
		return err
	}
	defer forget()
	var plan Plan
	for round := range rounds {
		m, lookErr := look(ctx, j.layout)
		if lookErr != nil {
			j.say("not everything could be looked at: %v", lookErr)
		}
		plan = Make(j.layout, j.record, m)
		if plan.Empty() || ctx.Err() != nil {
			break
		}
		j.do(ctx, plan, round == 0)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("interrupted: %w; run it again to remove the rest", err)
	}
	if !plan.Empty() { // how it is after the last round
		m, err := look(ctx, j.layout)
		if err != nil {
			return err
		}
		plan = Make(j.layout, j.record, m)
	}
	return j.left(plan)
}

// do takes the steps of a plan. What fails is kept with its reason: the next
// look tells whether it matters.
func (j *job) do(ctx context.Context, p Plan, first bool) {
	if len(p.Kill) > 0 {
		if first {
			j.say("Ending %s", count(len(p.Main), "container"))
		}
		j.endProcesses(ctx, p, first)
	}
	if len(p.Unmount) > 0 {
		j.say("Unmounting %s", count(len(p.Unmount), "file system"))
	}
	for _, point := range p.Unmount {
		j.note("mount "+point, unmount(ctx, point))
	}
	for _, t := range p.Traces {
		j.say("Removing %s", t)
		j.note(t.String(), t.Remove(ctx))
	}
	if len(p.Cgroups) > 0 {
		j.say("Removing %s", count(len(p.Cgroups), "control group"))
		j.removeCgroups(ctx, p.Cgroups)
	}
	for _, path := range p.Remove {
		if path == j.layout.RunDir {
			j.say("Removing %s", path)
		}
		j.note("file "+path, removeTree(path))
	}
}

func (j *job) note(thing string, err error) {
	if err != nil {
		j.reasons[thing] = err.Error()
	}
}

// endProcesses asks containers to end, the first time, and ends what is there after.
func (j *job) endProcesses(ctx context.Context, p Plan, ask bool) {
	if ask && j.Grace > 0 {
		for _, proc := range p.Main {
			_ = unix.Kill(proc.PID, unix.SIGTERM) // gone is as good
		}
		await(ctx, j.Grace, func() bool { return noneAlive(p.Main) })
	}
	// The shims last: who ends a shim first loses track of its container, and
	// an interrupted run should not.
	slices.SortStableFunc(p.Kill, func(a, b Process) int {
		helper := func(p Process) int {
			if strings.HasPrefix(p.Exe, j.layout.DataDir+"/") {
				return 1
			}
			return 0
		}
		return helper(a) - helper(b)
	})
	for _, proc := range p.Kill {
		if err := unix.Kill(proc.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			j.note(fmt.Sprintf("process %d (%s)", proc.PID, proc.Name), err)
		}
	}
	await(ctx, 5*time.Second, func() bool { return noneAlive(p.Kill) })
}

func noneAlive(list []Process) bool {
	return !slices.ContainsFunc(list, func(p Process) bool {
		now, err := process(p.PID)
		return err == nil && now.State != "Z" && now.State != "X"
	})
}

// await looks every 50 ms until done, or for so long.
func await(ctx context.Context, limit time.Duration, done func() bool) bool {
	end := time.Now().Add(limit)
	for !done() {
		if time.Now().After(end) || ctx.Err() != nil {
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
	return true
}

// unmountTimeout is for file systems of servers that do not answer.
const unmountTimeout = 20 * time.Second

func unmount(ctx context.Context, point string) error {
	done := make(chan error, 1)
	go func() {
		err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			err = nil // it went with another one
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(unmountTimeout):
		return fmt.Errorf("its server has not answered for %v; umount -f %s gives it up", unmountTimeout, point)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// removeCgroups removes them in every hierarchy. A group stays busy for a
// moment after its last process.
func (j *job) removeCgroups(ctx context.Context, groups []string) {
	roots, err := created.CgroupRoots()
	if err != nil {
		j.note("cgroups", err)
		return
	}
	if machine.Systemd() && slices.Contains(groups, "/kubepods.slice") && j.record.OwnsCgroup("kubepods.slice") {
		// systemd holds it as a unit.
		_ = exec.CommandContext(ctx, "systemctl", "stop", "kubepods.slice").Run() // the look below tells
	}
	for _, group := range groups {
		for _, root := range roots {
			var err error
			await(ctx, time.Second, func() bool {
				err = unix.Rmdir(filepath.Join(root, group))
				return !errors.Is(err, unix.EBUSY)
			})
			if err != nil && !errors.Is(err, unix.ENOENT) {
				j.note("control group "+group, err)
			}
		}
	}
}

// left is a *Left that names what is there, and why; nil if nothing is.
func (j *job) left(p Plan) error {
	var things []string
	add := func(thing, reason string) {
		if because := j.reasons[thing]; reason == "" && because != "" {
			reason = because
		}
		if reason != "" {
			thing += ": " + reason
		}
		things = append(things, thing)
	}
	for _, proc := range p.Kill {
		reason := ""
		if proc.State == "D" {
			reason = "waits in the kernel, for a disk or a server that does not answer; only a reboot ends it"
		}
		add(fmt.Sprintf("process %d (%s)", proc.PID, proc.Name), reason)
	}
	for _, point := range p.Unmount {
		reason := ""
		if users := usersOf(point); len(users) > 0 {
			reason = "in use by " + strings.Join(users, ", ")
		}
		add("mount "+point, reason)
	}
	for _, t := range p.Traces {
		add(t.String(), "")
	}
	for _, group := range p.Cgroups {
		add("control group "+group, "")
	}
	for _, path := range p.Remove {
		add("file "+path, "")
	}
	if len(things) == 0 {
		return nil
	}
	return &Left{Things: things}
}

// usersOf are the processes that have something open below a mount point.
func usersOf(point string) []string {
	list, err := processes()
	if err != nil {
		return nil
	}
	var users []string
	for _, p := range list {
		dir := fmt.Sprintf("/proc/%d", p.PID)
		files := []string{filepath.Join(dir, "cwd"), filepath.Join(dir, "root")}
		if open, err := filepath.Glob(filepath.Join(dir, "fd", "*")); err == nil {
			files = append(files, open...)
		}
		if slices.ContainsFunc(files, func(link string) bool {
			target, err := os.Readlink(link)
			return err == nil && (target == point || below(target, point))
		}) {
			users = append(users, fmt.Sprintf("process %d (%s)", p.PID, p.Name))
		}
	}
	return users
}

// findNFT puts an nft that works first in the PATH: the payload's, the
// machine's, or, on a machine that has lost both, one from this binary. forget
// removes the latter.
func findNFT(ctx context.Context, dataDir string) (forget func(), err error) {
	path := os.Getenv("PATH")
	use := func(dir string) error { return os.Setenv("PATH", dir+":"+path) }
	works := func() bool { return exec.CommandContext(ctx, "nft", "--version").Run() == nil }
	if err := use(filepath.Join(dataDir, "data", "current", "bin")); err != nil || works() {
		return func() {}, err
	}
	temp, err := os.MkdirTemp("", "limpet-nft-")
	if err != nil {
		return nil, fmt.Errorf("unpack the program nft, which removes firewall rules: %w", err)
	}
	forget = func() { _ = os.RemoveAll(temp) }
	dir, err := payload.Unpack(ctx, temp)
	if err == nil {
		err = use(dir.Bin())
	}
	if err != nil {
		forget()
		return nil, fmt.Errorf("unpack the program nft, which removes firewall rules: %w", err)
	}
	return forget, nil
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
