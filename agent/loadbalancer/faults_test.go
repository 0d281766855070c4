package loadbalancer

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fullListener listens with the shortest queue there is and accepts nothing.
func fullListener(t *testing.T) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return "", err
	}
	if err := unix.Listen(fd, 0); err != nil {
		return "", err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*unix.SockaddrInet4).Port)), nil
}

// TestFirstOfTheListFails tries every way in which a server can be of no use:
// clients get an answer all the same, from the next one.
func TestFirstOfTheListFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		bad   func(*testing.T) string
		limit time.Duration
	}{
		"refuses":                  {refuser, time.Second},
		"accepts and resets":       {resetter, time.Second},
		"accepts and says nothing": {mute, answerTimeout + time.Second},
		"black hole":               {blackHole, dialTimeout + time.Second},
		"another authority": {func(t *testing.T) string {
			return startServer(t, newAuthority(t), "stranger").addr
		}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := newAuthority(t)
			good, bad := startServer(t, ca, "good"), tt.bad(t)
			b, listen := run(t, Options{Servers: []string{bad, good.addr}, Roots: ca.roots()})
			if name == "another authority" { // only a probe can know
				await(t, b, "the stranger is found out", func(s Status) bool { return stateOf(s, bad) == Failed })
			}
			begin := time.Now()
			mustAnswer(t, client(ca), listen, "good")
			if took := time.Since(begin); took > tt.limit {
				t.Errorf("the first answer took %s, want less than %s", took, tt.limit)
			}
			await(t, b, "the bad server is found out", func(s Status) bool {
				return stateOf(s, bad) == Failed && stateOf(s, good.addr) == Healthy
			})
			begin = time.Now()
			mustAnswer(t, client(ca), listen, "good")
			if took := time.Since(begin); took > 500*time.Millisecond {
				t.Errorf("a later answer took %s: the failed server is still tried", took)
			}
		})
	}
}

func TestFailover(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one, two := startServer(t, ca, "one"), startServer(t, ca, "two")
	b, listen := run(t, Options{Servers: []string{one.addr, two.addr}, Roots: ca.roots()})
	c := client(ca)
	await(t, b, "both are known", func(s Status) bool {
		return stateOf(s, one.addr) == Healthy && stateOf(s, two.addr) == Healthy
	})
	in, other := one, two
	if from, _ := stream(t, c, listen); from == "two" { // whichever answered the first probe
		in, other = two, one
	}
	in.stop()
	begin := time.Now()
	mustAnswer(t, c, listen, other.name)
	if took := time.Since(begin); took > 500*time.Millisecond {
		t.Errorf("failover took %s", took)
	}
	in.start(t)
	await(t, b, "the first is back", func(s Status) bool { return stateOf(s, in.addr) == Healthy })
	mustAnswer(t, c, listen, other.name) // no reason to move
}

// TestDeadServerLosesItsConnections: a server that stops answering while its
// connections stay open, as a machine without power does.
func TestDeadServerLosesItsConnections(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	one, two := startServer(t, ca, "one"), startServer(t, ca, "two")
	b, listen := run(t, Options{Servers: []string{one.addr}, Roots: ca.roots()})
	c := client(ca)
	_, ended := stream(t, c, listen)
	b.SetServers([]string{two.addr})
	await(t, b, "the second is known", func(s Status) bool { return stateOf(s, two.addr) == Healthy })
	b.take(one.addr, Failed, "test: no answer") // as a probe would, half a minute later
	within(t, time.Second, "the stream with the dead server ends", ended)
	mustAnswer(t, c, listen, "two")
}

func TestRestartOfTheOnlyServer(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	only := startServer(t, ca, "only")
	b, listen := run(t, Options{Servers: []string{only.addr}, Roots: ca.roots(), patience: 3 * time.Second})
	c := client(ca)
	within(t, 5*time.Second, "reached", b.Reached())
	_, ended := stream(t, c, listen)
	only.stop()
	within(t, time.Second, "the stream ends with the server", ended)
	answers := make(chan error, 1)
	go func() {
		got, err := ask(c, listen)
		if err == nil && got != "only" {
			t.Errorf("answered by %q", got)
		}
		answers <- err
	}()
	time.Sleep(time.Second) // the restart
	only.start(t)
	begin := time.Now()
	if err := <-answers; err != nil {
		t.Errorf("a request during the restart: %v", err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the waiting request was answered %s after the server was back", took)
	}
	// A long absence: clients are told at once after the first seconds.
	only.stop()
	if _, err := ask(c, listen); err == nil {
		t.Error("answered by nobody")
	}
	begin = time.Now()
	if _, err := ask(c, listen); err == nil || time.Since(begin) > time.Second {
		t.Errorf("after %s: %v; want an error at once", time.Since(begin), err)
	}
	only.start(t)
	await(t, b, "back again", func(s Status) bool { return stateOf(s, only.addr) == Healthy })
	mustAnswer(t, c, listen, "only")
}

func TestIdleMeansIdle(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	only := startServer(t, ca, "only")
	b, listen := run(t, Options{Servers: []string{only.addr}, Roots: ca.roots()})
	within(t, 5*time.Second, "reached", b.Reached())
	mustAnswer(t, client(ca), listen, "only")
	time.Sleep(2 * time.Second)
	if n := only.probes.Load(); n != 1 {
		t.Errorf("a healthy server alone was asked %d times", n)
	}
}

func TestStandIn(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	standIn, real := startServer(t, ca, "stand-in"), startServer(t, ca, "real")
	real.stop()
	b, listen := run(t, Options{
		Servers: []string{real.addr}, Roots: ca.roots(), patience: time.Second,
		StandIn: func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", standIn.addr)
		},
	})
	c := client(ca)
	mustAnswer(t, c, listen, "stand-in")
	if s := b.Status(); !s.StandIn || s.Reached {
		t.Errorf("status %+v", s)
	}
	_, ended := stream(t, c, listen)

	real.unready.Store(true) // it starts
	real.start(t)
	await(t, b, "the server answers", func(s Status) bool { return stateOf(s, real.addr) == Unready })
	mustAnswer(t, c, listen, "stand-in")
	real.unready.Store(false)
	within(t, 5*time.Second, "reached", b.Reached())
	within(t, time.Second, "the stand-in's connections end", ended)
	mustAnswer(t, c, listen, "real")

	real.stop() // once reached, the stand-in is never used again
	if got, err := ask(c, listen); err == nil {
		t.Errorf("answered by %q", got)
	}
	if s := b.Status(); s.StandIn {
		t.Errorf("status %+v", s)
	}
}

func TestStandInIsNotUsedWhenAServerIsThere(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	real := startServer(t, ca, "real")
	_, listen := run(t, Options{
		Servers: []string{real.addr}, Roots: ca.roots(),
		StandIn: func(context.Context) (net.Conn, error) {
			t.Error("the stand-in was asked")
			return nil, io.EOF
		},
	})
	mustAnswer(t, client(ca), listen, "real")
}

func TestPassesEverythingThrough(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	only := startServer(t, ca, "only")
	_, listen := run(t, Options{Servers: []string{only.addr}, Roots: ca.roots()})
	sent := make([]byte, 8<<20)
	_, _ = rand.Read(sent)
	resp, err := client(ca).Post("https://"+listen+"/echo", "application/octet-stream", bytes.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
	// Who does not speak TLS gets the server's own answer.
	plain, err := http.Get("http://" + listen + "/name")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Body.Close()
	if plain.StatusCode != http.StatusBadRequest {
		t.Errorf("HTTP instead of HTTPS: %s", plain.Status)
	}
}

func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	only := startServer(t, ca, "only")
	b, listen := run(t, Options{Servers: []string{only.addr}, Roots: ca.roots(), MaxConnections: 3})
	var silent []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, conn)
	}
	await(t, b, "three connections", func(s Status) bool { return s.Connections == 3 })
	if _, err := ask(client(ca), listen); err == nil {
		t.Error("a fourth connection was served")
	}
	for _, conn := range silent {
		_ = conn.Close()
	}
	await(t, b, "nobody", func(s Status) bool { return s.Connections == 0 })
	mustAnswer(t, client(ca), listen, "only")
}

func TestKeepsTheList(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "agent", "servers.json")
	configured := []string{"mast.example.com:6443"}
	b, err := New(Options{Servers: configured, File: file})
	if err != nil {
		t.Fatal(err)
	}
	b.SetServers([]string{"192.0.2.1:6443", "no address", "192.0.2.2:6443", "192.0.2.1:6443", ":6443", "192.0.2.3:0"})
	b.SetServers(nil) // an API that ends takes itself out
	want := []string{"mast.example.com:6443", "192.0.2.1:6443", "192.0.2.2:6443"}
	if got := b.Servers(); !slices.Equal(got, want) {
		t.Errorf("servers %v, want %v", got, want)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	again, err := New(Options{Servers: configured, File: file})
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Servers(); !slices.Equal(got, want) {
		t.Errorf("after a restart: %v, want %v", got, want)
	}
	for _, damage := range []string{"", "{", `{"servers":["x"]}`, `[1]`, strings.Repeat("\x00", 100)} {
		if err := os.WriteFile(file, []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := New(Options{Servers: configured, File: file})
		if err != nil || !slices.Equal(b.Servers(), configured) {
			t.Errorf("file %q: %v, %v", damage, b, err)
		}
	}
	if _, err := New(Options{Servers: []string{"https://x:6443"}}); err == nil {
		t.Error("a URL was taken for an address")
	}
}
