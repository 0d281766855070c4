package containerinit

import (
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// role is what a copy of this test's binary is started as.
const role = "CONTAINERINIT_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "init":
		os.Exit(first())
	case "limpet":
		os.Exit(limpet())
	default:
		os.Exit(m.Run())
	}
}

// first is the first process of a container, without the preparations, which need the
// whole of one: TestImage in e2e has that.
func first() int {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, append(passedOn(), syscall.SIGCHLD)...)
	child, err := syscall.ForkExec("/proc/self/exe", []string{"limpet"}, &syscall.ProcAttr{
		Env: []string{role + "=limpet", "HOW=" + os.Getenv("HOW")}, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return 99
	}
	w := ward{child: child, log: slog.New(slog.NewTextHandler(io.Discard, nil)), status: -1, told: map[int]bool{}}
	w.watch(signals)
	return w.status
}

// limpet leaves a daemon behind, as a shim is, and ends as HOW says.
func limpet() int {
	// The shell ends at once, and its child becomes an orphan.
	out, err := exec.Command("/bin/sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo orphan $!").Output()
	if err != nil {
		return 98
	}
	_, _ = os.Stdout.Write(out)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	if code, err := strconv.Atoi(os.Getenv("HOW")); err == nil {
		return code
	}
	// More orphans, which end: the first process must take their statuses.
	if err := exec.Command("/bin/sh", "-c", "for i in 1 2 3; do (sh -c 'exit 7' &) ; done").Run(); err != nil {
		return 97
	}
	for zombies() > 0 {
		time.Sleep(10 * time.Millisecond)
	}
	_, _ = os.Stdout.WriteString("no zombies\n")
	if os.Getenv("HOW") == "deaf" {
		select {}
	}
	<-signals
	return 0
}

func zombies() int {
	n := 0
	for _, p := range processes() {
		if p.zombie {
			n++
		}
	}
	return n
}

// contained starts this test's binary as process 1 of a pid namespace with a /proc
// of its own.
func contained(t *testing.T, how string) (*exec.Cmd, io.Reader) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--pid", "--mount-proc", "--fork", "--kill-child", "--", self)
	cmd.Env = []string{role + "=init", "HOW=" + how, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("unshare is not to be had: ", err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, out
}

// initOf is the process 1 that unshare has forked.
func initOf(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	pid := strconv.Itoa(cmd.Process.Pid)
	data, err := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatalf("children of unshare: %q", data)
	}
	return child
}

func readUntil(t *testing.T, r io.Reader, word string) {
	t.Helper()
	var got []byte
	buf := make([]byte, 256)
	for !strings.Contains(string(got), word) {
		n, err := r.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			t.Fatalf("%v after %q", err, got)
		}
	}
}

// TestTerm: a signal reaches the child, orphans are collected and end.
func TestTerm(t *testing.T) {
	t.Parallel()
	cmd, out := contained(t, "wait")
	readUntil(t, out, "no zombies")
	if err := syscall.Kill(initOf(t, cmd), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := cmd.Wait(); err != nil {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > killGrace {
		t.Errorf("took %v: the orphan was not asked to end", took)
	}
}

// TestChildEnds: without its child, the container ends with the same status.
func TestChildEnds(t *testing.T) {
	t.Parallel()
	cmd, out := contained(t, "23")
	readUntil(t, out, "orphan")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 23 {
		t.Errorf("got %v", err)
	}
}

// TestDeaf: who does not end is killed before docker does it.
func TestDeaf(t *testing.T) {
	t.Parallel()
	cmd, out := contained(t, "deaf")
	readUntil(t, out, "no zombies")
	if err := syscall.Kill(initOf(t, cmd), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 137 {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took < killGrace {
		t.Errorf("had only %v", took)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	var err error = Status(3)
	if coder, ok := err.(interface{ ExitCode() int }); !ok || coder.ExitCode() != 3 || err.Error() != "" {
		t.Errorf("got %v", err)
	}
	if Needed() {
		t.Error("this is no first process")
	}
}

func TestMainProcesses(t *testing.T) {
	t.Parallel()
	all := []process{
		{pid: 1, parent: 0, name: "limpet"},
		{pid: 7, parent: 1, name: "limpet"},
		{pid: 8, parent: 7, name: "runc"},
		{pid: 20, parent: 1, name: shimName},
		{pid: 21, parent: 20, name: "pause"},
		{pid: 22, parent: 20, name: "postgres"},
		{pid: 23, parent: 22, name: "postgres"},
		{pid: 24, parent: 20, name: "sh", zombie: true},
		{pid: 30, parent: 1, name: "orphan"},
		{pid: 31, parent: 1, name: "gone", zombie: true},
		{pid: 40, parent: 7, name: shimName}, // just started
		{pid: 41, parent: 40, name: "pause"},
	}
	if got := mainProcesses(all, 1, 7); !reflect.DeepEqual(got, []int{21, 22, 30, 41}) {
		t.Errorf("got %v", got)
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]process{
		"7 (sh) S 1 7 7 0":                     {pid: 7, parent: 1, name: "sh"},
		"8 (a (b) c) Z 7 0":                    {pid: 8, parent: 7, name: "a (b) c", zombie: true},
		"20 (containerd-shim) S 1 2 3":         {pid: 20, parent: 1, name: shimName},
		"9 () R 2":                             {pid: 9, parent: 2},
		"x (sh) S 1":                           {},
		"7 sh S 1":                             {},
		"7 (sh) S":                             {},
		"7 (sh) S x":                           {},
		") (":                                  {},
		"":                                     {},
		"99999999999999999999999999 (sh) S 1 ": {},
	} {
		got, ok := parseStat([]byte(text))
		if got != want || ok != (want != process{}) {
			t.Errorf("%q: %+v, %v", text, got, ok)
		}
	}
}
