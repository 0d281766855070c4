package upgrade

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/limpetio/limpet/internal/created"
	"github.com/limpetio/limpet/internal/machine"
)

// control starts and stops limpet, whoever runs it.
type control interface {
	// stop ends limpet, and nobody starts it until start. It may be called again.
	stop(ctx context.Context) error
	// start has the installed binary run: it starts limpet, restarts it if it runs
	// another one, and does nothing if it runs this one. It does not wait.
	start(ctx context.Context) error
	// pid is limpet's process, 0 if there is none.
	pid(ctx context.Context) (int, error)
	// ends is how often limpet has ended by itself since start.
	ends(ctx context.Context) int
}

// Limits of what a service manager may take.
const (
	stopTimeout    = 2 * time.Minute // more than the 60 s that the unit of install.sh gives
	commandTimeout = 30 * time.Second
)

func (j Journal) control(dataDir string) control {
	switch j.Service.Manager {
	case Systemd:
		return &systemdService{unit: j.Service.Name + ".service", installed: j.Installed}
	case OpenRC:
		return &openrcService{name: j.Service.Name, installed: j.Installed}
	}
	return &looseProcess{dataDir: dataDir, installed: j.Installed}
}

// run runs a program of the machine; the error holds what it says.
func run(ctx context.Context, timeout time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+searchPath())
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return text, nil
}

// searchPath: a box may start its services on an empty PATH.
func searchPath() string {
	return strings.TrimPrefix(os.Getenv("PATH")+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", ":")
}

// runs reports whether the process runs the program that is at path now.
func runs(pid int, path string) bool {
	if pid <= 0 {
		return false
	}
	exe, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	file, err := os.Stat(path)
	return err == nil && os.SameFile(exe, file)
}

// systemdService is limpet as a unit.
type systemdService struct{ unit, installed string }

func (s *systemdService) stop(ctx context.Context) error {
	_, err := run(ctx, stopTimeout, "systemctl", "stop", s.unit)
	return err
}

func (s *systemdService) start(ctx context.Context) error {
	pid, err := s.pid(ctx)
	if err != nil {
		return err
	}
	if runs(pid, s.installed) {
		return nil
	}
	// Only for one that has failed; it counts starts anew.
	_, _ = run(ctx, commandTimeout, "systemctl", "reset-failed", s.unit)
	// Without waiting: the unit is up only when limpet says so, which may be never.
	_, err = run(ctx, commandTimeout, "systemctl", "restart", "--no-block", s.unit)
	return err
}

func (s *systemdService) show(ctx context.Context, property string) (string, error) {
	return run(ctx, commandTimeout, "systemctl", "show", "-p", property, "--value", s.unit)
}

func (s *systemdService) pid(ctx context.Context) (int, error) {
	text, err := s.show(ctx, "MainPID")
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("systemctl show -p MainPID %s says %q", s.unit, text)
	}
	return pid, nil
}

func (s *systemdService) ends(ctx context.Context) int {
	text, err := s.show(ctx, "NRestarts")
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}

// openrcService is limpet as a service of OpenRC, under supervise-daemon.
type openrcService struct {
	name, installed string
	gone            int
}

func (s *openrcService) stop(ctx context.Context) error {
	_, err := run(ctx, stopTimeout, "rc-service", "--ifstarted", s.name, "stop")
	return err
}

func (s *openrcService) start(ctx context.Context) error {
	pid, err := s.pid(ctx)
	if err != nil {
		return err
	}
	if runs(pid, s.installed) {
		return nil
	}
	if _, err := run(ctx, stopTimeout, "rc-service", "--ifstarted", s.name, "restart"); err != nil {
		return err
	}
	_, err = run(ctx, stopTimeout, "rc-service", "--ifstopped", s.name, "start")
	return err
}

// pid is that of the newest process of limpet that its supervisor has started:
// OpenRC tells only the supervisor's.
func (s *openrcService) pid(context.Context) (int, error) {
	list, err := processes()
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(list, func(p process) bool {
		return p.isLimpet() && p.path() == s.installed && parentName(p.pid) == "supervise-daemo" // the kernel keeps 15 letters
	})
	if i < 0 {
		return 0, nil
	}
	return list[i].pid, nil
}

// ends: a supervisor that is gone has given up.
func (s *openrcService) ends(ctx context.Context) int {
	if _, err := run(ctx, commandTimeout, "rc-service", s.name, "status"); err == nil {
		s.gone = 0
		return 0
	}
	s.gone++
	return s.gone
}

func parentName(pid int) string {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return ""
	}
	m := parentLine.FindSubmatch(status)
	if m == nil {
		return ""
	}
	name, err := os.ReadFile("/proc/" + string(m[1]) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(name))
}

var parentLine = regexp.MustCompile(`(?m)^PPid:\s*(\d+)$`)

// site is the limpet of this machine, as far as an upgrade is concerned.
type site struct {
	pid       int // 0: it does not run
	installed string
	service   Service
}

// locate finds out how limpet runs here, and which binary it is.
func locate(ctx context.Context, dataDir string) (site, error) {
	pid, err := machine.LockOwner(dataDir)
	if err != nil {
		return site{}, err
	}
	s := site{pid: pid, service: Service{Manager: None}}
	switch {
	case pid == 1 || pid != 0 && runs(1, fmt.Sprintf("/proc/%d/exe", pid)):
		return s, refusal(NotReplaceable, "Start a container of the new version's image instead", "limpet runs in a container, as its first process or a child of that")
	case machine.Systemd():
		err = s.findUnit(ctx)
	case openrc():
		s.findOpenRC(ctx)
	}
	if err != nil {
		return s, err
	}
	if s.pid != 0 {
		s.installed, err = exeOf(s.pid)
	} else if s.installed == "" {
		if s.installed, err = os.Executable(); err == nil {
			s.installed, err = filepath.EvalSymlinks(s.installed)
		}
	}
	if err != nil {
		return s, fmt.Errorf("find the installed limpet: %w", err)
	}
	if s.pid == 0 && s.service.Manager == None {
		return s, refusal(NotReplaceable, "Start it first: an upgrade restarts it the way it was started",
			"limpet does not run here, and it is no service that could be started")
	}
	return s, nil
}

// exeOf is the path of a process's program, also when another is there by now.
func exeOf(pid int) (string, error) {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return strings.TrimSuffix(path, " (deleted)"), err
}

// serviceNames are those that install.sh gives by itself, and those it was told.
func serviceNames() []string {
	names := []string{"limpet", "limpet-agent"}
	installed, err := created.Installed()
	if err != nil {
		return names
	}
	for _, path := range installed {
		name, unit := strings.CutSuffix(filepath.Base(path), ".service")
		if (unit || filepath.Dir(path) == "/etc/init.d") && name != guardService && !slices.Contains(names, name) && serviceName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// findUnit finds the unit that the running limpet is of, or the one that would
// start it. A limpet that was started by hand has none.
func (s *site) findUnit(ctx context.Context) error {
	names := serviceNames()
	if s.pid != 0 {
		if unit := unitOf(s.pid); unit != "" && !slices.Contains(names, unit) && serviceName.MatchString(unit) {
			names = append(names, unit)
		}
	}
	for _, name := range names {
		unit := &systemdService{unit: name + ".service"}
		if state, err := unit.show(ctx, "LoadState"); err != nil {
			return err
		} else if state != "loaded" {
			continue
		}
		pid, err := unit.pid(ctx)
		if err != nil {
			return err
		}
		if s.pid != 0 && pid != s.pid {
			continue
		}
		if line, err := unit.show(ctx, "ExecStart"); err == nil {
			if m := execPath.FindStringSubmatch(line); m != nil {
				s.installed = m[1]
			}
		}
		s.pid, s.service = pid, Service{Manager: Systemd, Name: name}
		return nil
	}
	return nil
}

var execPath = regexp.MustCompile(`\bpath=(\S+) ;`)

// unitOf is the name of the unit that a process is in, without its ending.
func unitOf(pid int) string {
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	return parseUnit(string(groups))
}

// parseUnit reads proc_pid_cgroup(5): systemd's own hierarchy, or the only one.
// limpet may have groups of its own below that of its unit.
func parseUnit(groups string) string {
	for line := range strings.Lines(groups) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[1] != "name=systemd" && fields[1] != "" {
			continue
		}
		for part := range strings.SplitSeq(fields[2], "/") {
			if name, ok := strings.CutSuffix(part, ".service"); ok {
				return name
			}
		}
	}
	return ""
}

func openrc() bool {
	_, err := os.Stat("/run/openrc/softlevel")
	return err == nil
}

func (s *site) findOpenRC(ctx context.Context) {
	for _, name := range serviceNames() {
		if _, err := os.Stat(filepath.Join("/etc/init.d", name)); err != nil {
			continue
		}
		_, err := run(ctx, commandTimeout, "rc-service", name, "status")
		if err == nil && (s.pid == 0 || parentName(s.pid) == "supervise-daemo") || err != nil && s.pid == 0 {
			s.service = Service{Manager: OpenRC, Name: name}
			return
		}
	}
}
