package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	agenttunnel "github.com/limpetio/limpet/agent/tunnel"
	"github.com/limpetio/limpet/internal/testenv"
)

// ask requests a tunnel by hand and returns the answer's status and text.
func (w *world) ask(cert string, header ...string) (int, string) {
	w.t.Helper()
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	bundle, err := os.ReadFile(w.authority.Server.File())
	if err != nil || !cfg.RootCAs.AppendCertsFromPEM(bundle) {
		w.t.Fatal("server authority", err)
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, cert)
		if err != nil {
			w.t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	conn, err := tls.Dial("tcp", w.address(), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	if len(header) == 0 {
		header = []string{"Connection: Upgrade", "Upgrade: " + agenttunnel.Protocol}
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", agenttunnel.Path, strings.Join(header, "\r\n"))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp.StatusCode, ""
	}
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

func TestWhoGetsATunnel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node("n2", "127.0.0.1:10250")
	good := w.certificate("n2", "system:node:n2", "system:nodes")
	for _, test := range []struct {
		name   string
		cert   string
		header []string
		status int
		text   string
	}{
		{name: "nobody", status: 401},
		{name: "not in the group", cert: w.certificate("a", "system:node:n2"), status: 403, text: "for nodes"},
		{name: "no node", cert: w.certificate("b", "system:admin", "system:nodes"), status: 403, text: "for nodes"},
		{name: "no name", cert: w.certificate("c", "system:node:", "system:nodes"), status: 403, text: "for nodes"},
		{name: "no Node", cert: w.certificate("d", "system:node:gone", "system:nodes"), status: 404, text: "no Node gone"},
		{name: "no upgrade", cert: good, header: []string{"Accept: */*"}, status: 426},
		{name: "another protocol", cert: good, header: []string{"Connection: Upgrade", "Upgrade: websocket"}, status: 426},
		{name: "the node", cert: good, status: 101},
	} {
		status, text := w.ask(test.cert, test.header...)
		if status != test.status || !strings.Contains(text, test.text) {
			t.Errorf("%s: HTTP %d %q, want %d with %q", test.name, status, text, test.status, test.text)
		}
	}
}

// A node's certificate opens a tunnel for that node and no other, so that it
// cannot get what is meant for others.
func TestAnotherNodesCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	right := testenv.Listen(t, "127.0.0.1:0", func(c net.Conn) { _, _ = io.WriteString(c, "n2"); _ = c.Close() })
	wrong := testenv.Listen(t, "127.0.0.1:0", func(c net.Conn) { _, _ = io.WriteString(c, "n3"); _ = c.Close() })
	w.node("n2", right)
	liar := testNode("n3", 0, []string{"127.42.1.0/24"}, "192.0.2.1") // all that n2 has
	liar.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(portNumber(t, right))
	w.hub.nodes.put(liar)
	w.agent("n2", right)
	w.agent("n3", wrong)
	w.connected("n2", nil)
	w.connected("n3", nil)
	for range 5 {
		got, err := io.ReadAll(w.dial("192.0.2.1:" + port(right)))
		if string(got) != "n2" || err != nil {
			t.Fatalf("at n2's address answered %q, %v", got, err)
		}
	}
}

func portNumber(t *testing.T, address string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}

func TestNewSessionReplacesOld(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
	w.node("n2", kubelet)
	if status, _ := w.ask(w.certificate("n2", "system:node:n2", "system:nodes")); status != 101 { // and is silent ever after
		t.Fatal(status)
	}
	old := w.connected("n2", nil)
	w.agent("n2", kubelet)
	fresh := w.connected("n2", old)
	talk(t, w.dial("n2:"+port(kubelet)), "through the new one")
	if old.alive() || !fresh.alive() {
		t.Errorf("old alive: %t, new alive: %t", old.alive(), fresh.alive())
	}
}

func TestNodeDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
	w.node("n2", kubelet)
	a, _ := w.agent("n2", kubelet)
	s := w.connected("n2", nil)
	c := w.dial("n2:" + port(kubelet))
	w.hub.nodes.remove("n2")
	await(t, "the end of the tunnel", func() bool { return !s.alive() && len(w.hub.Sessions()) == 0 })
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlived the Node")
	}
	await(t, "the refusal", func() bool { return strings.Contains(a.States()[0].Error, "there is no Node n2") })
	w.node("n2", kubelet) // it registers again
	w.connected("n2", s)
	await(t, "the state", func() bool { return a.States()[0].Connected })
}

func TestEndsWithItsCertificate(t *testing.T) {
	t.Parallel()
	here, there := net.Pipe()
	t.Cleanup(func() { _ = there.Close() })
	go func() { _, _ = io.Copy(io.Discard, there) }()
	closed := make(chan *session, 2)
	s, err := newSession("n2", here, time.Now().Add(20*time.Millisecond), defaultSilence, func(s *session) { closed <- s })
	if err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-closed:
		if got != s || s.alive() {
			t.Errorf("closed %p, want %p; alive: %t", got, s, s.alive())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the session outlived the certificate")
	}
}

// A tunnel whose other end is gone without a word, as after the restart of a
// NAT, is given up when it is used, and the dial goes on with the next one.
func TestSilentTunnel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
	w.node("n2", kubelet)
	w.hub.direct = func(ctx context.Context, _, _ string) (net.Conn, error) { // as behind NAT
		<-ctx.Done()
		return nil, ctx.Err()
	}
	w.hub.silence = 100 * time.Millisecond
	if status, _ := w.ask(w.certificate("n2", "system:node:n2", "system:nodes")); status != 101 { // and is silent ever after
		t.Fatal(status)
	}
	old := w.connected("n2", nil)
	context.AfterFunc(t.Context(), old.close)
	dialed := make(chan net.Conn, 1)
	go func() {
		c, err := w.hub.DialContext(context.Background(), "tcp", "n2:"+port(kubelet))
		if err != nil {
			t.Error(err)
		}
		dialed <- c
	}()
	await(t, "the old tunnel's end", func() bool { return !old.alive() })
	w.agent("n2", kubelet)
	c := <-dialed
	talk(t, c, "through the next tunnel")
	_ = c.Close()
}

func TestServerRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
	w.node("n2", kubelet)
	address := w.address()
	w.agent("n2", kubelet, address)
	s := w.connected("n2", nil)
	w.server.CloseClientConnections()
	s.close()
	w.connected("n2", s)
	talk(t, w.dial("n2:"+port(kubelet)), "after the restart")
}

// A node that knows a server by two addresses keeps one tunnel, and takes the
// other address when the first fails.
func TestOneServerWithTwoAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
	w.node("n2", kubelet)
	a, _ := w.agent("n2", kubelet, w.address(), "localhost:"+port(w.address()))
	w.connected("n2", nil)
	await(t, "both addresses", func() bool {
		states := a.States()
		return len(states) == 2 && states[0].Connected && states[1].Connected
	})
	// Both may ask at the same time, once: the later one has the tunnel then.
	s, _ := w.hub.sessionOf("n2")
	for range 2 {
		time.Sleep(200 * time.Millisecond) // four times the longest pause
		again, _ := w.hub.sessionOf("n2")
		if again == s {
			break
		}
		s = again
	}
	time.Sleep(200 * time.Millisecond)
	if again, _ := w.hub.sessionOf("n2"); again != s {
		t.Error("the two addresses take the tunnel from one another")
	}
	s.close()
	w.connected("n2", s)
}

func TestNothingIsLeft(t *testing.T) { // not parallel: it counts goroutines
	before := runtime.NumGoroutine()
	t.Run("use", func(t *testing.T) {
		w := newWorld(t)
		kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
		pod := testenv.Listen(t, podIP+":0", echo)
		w.node("n2", kubelet)
		_, stop := w.agent("n2", kubelet)
		w.connected("n2", nil)
		for range 50 {
			c := w.dial(pod)
			talk(t, c, "x")
			_ = c.Close()
		}
		w.dial(pod) // is open when the node goes
		stop()
		await(t, "the end of the session", func() bool { return len(w.hub.Sessions()) == 0 })
	})
	await(t, "the end of all goroutines", func() bool { return runtime.NumGoroutine() <= before })
}
