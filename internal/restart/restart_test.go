package restart

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// rounds is how often the child of TestSamePID is still to begin anew.
const rounds = "RESTART_TEST_ROUNDS"

func TestMain(m *testing.M) {
	if os.Getenv(rounds) != "" {
		os.Exit(child())
	}
	os.Exit(m.Run())
}

// child says who it is and starts anew until a file tells that it is enough:
// the environment of each run is that of the first.
func child() int {
	image := Capture()
	_ = os.Unsetenv("NOTIFY_SOCKET") // as limpet does
	_ = os.Setenv("PATH", "/changed")
	fmt.Printf("pid=%d args=%s path=%s notify=%s\n", os.Getpid(), strings.Join(os.Args[1:], ","),
		strings.Join(image.env, " "), image.notifier())
	counter := os.Getenv(rounds)
	n, _ := os.ReadFile(counter)
	if len(n) >= 2 {
		return 0
	}
	_ = os.WriteFile(counter, append(n, '.'), 0o600)
	err := image.IfNeeded(fmt.Errorf("component: %w", &Needed{Reason: "test"}))
	fmt.Println(err)
	return 1
}

func TestSamePID(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	cmd := exec.Command(os.Args[0], "one", "two")
	cmd.Env = []string{rounds + "=" + filepath.Join(dir, "counter"), "PATH=/usr/bin", "NOTIFY_SOCKET=" + socket.LocalAddr().String()}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d runs, want 3:\n%s", len(lines), out)
	}
	for _, line := range lines {
		if line != lines[0] || !strings.Contains(line, "pid="+strconv.Itoa(cmd.Process.Pid)+" args=one,two") || strings.Contains(line, "/changed") {
			t.Errorf("a run differs from the first, or is no run of process %d:\n%s", cmd.Process.Pid, out)
		}
	}
	if err := socket.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256)
	for range 2 {
		n, err := socket.Read(buf)
		if err != nil || !strings.HasPrefix(string(buf[:n]), "RELOADING=1\nMONOTONIC_USEC=") {
			t.Errorf("the init system was told %q, %v", buf[:n], err)
		}
	}
}

func TestOtherErrorsPass(t *testing.T) {
	t.Parallel()
	other := errors.New("something else")
	if err := Capture().IfNeeded(other); !errors.Is(err, other) {
		t.Errorf("got %v", err)
	}
	if err := Capture().IfNeeded(nil); err != nil {
		t.Errorf("got %v", err)
	}
}
