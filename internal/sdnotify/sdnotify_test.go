package sdnotify

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestTakeHidesTheSocketFromUpstream(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "1000")
	n := Take()
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC"} {
		if v, ok := os.LookupEnv(name); ok {
			t.Errorf("%s is still %q", name, v)
		}
	}
	buf := make([]byte, 100)
	for _, step := range []struct {
		send func()
		want string
	}{{n.Ready, "READY=1"}, {func() { n.Status("x") }, "STATUS=x"}, {n.Stopping, "STOPPING=1"}} {
		step.send()
		size, err := conn.Read(buf)
		if err != nil || string(buf[:size]) != step.want {
			t.Errorf("got %q, %v; want %q", buf[:size], err, step.want)
		}
	}
}

func TestWithoutASocketNothingHappens(t *testing.T) {
	t.Parallel()
	Notifier{}.Ready()
}
