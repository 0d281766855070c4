package tunnel

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	agenttunnel "github.com/limpetio/limpet/agent/tunnel"
	"github.com/limpetio/limpet/internal/testenv"
)

func echo(c net.Conn) {
	_, _ = io.Copy(c, c)
	_ = c.Close()
}

// talk writes a line and reads it back.
func talk(t *testing.T, c net.Conn, line string) {
	t.Helper()
	if _, err := io.WriteString(c, line); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != line {
		t.Fatalf("wrote %q, read %q, %v", line, got, err)
	}
}

func TestReachKubeletAndPods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
	pod := testenv.Listen(t, podIP+":0", echo)
	w.node("n2", kubelet)
	w.agent("n2", kubelet)
	w.connected("n2", nil)

	_, port, _ := net.SplitHostPort(kubelet)
	talk(t, w.dial("192.0.2.1:"+port), "to the kubelet by the node's address")
	talk(t, w.dial("n2:"+port), "to the kubelet by the node's name")
	c := w.dial(pod)
	talk(t, c, "to a pod")
	if got := w.hub.Sessions(); len(got) != 1 || got[0].Node != "n2" || got[0].Connections != 3 {
		t.Errorf("sessions: %+v", got)
	}
	if c.RemoteAddr().String() != pod {
		t.Errorf("remote address %s, want %s", c.RemoteAddr(), pod)
	}
	// What is no node's is not asked of a node.
	other := testenv.Listen(t, "127.0.0.1:0", echo)
	talk(t, w.dial(other), "directly")
	if got := w.hub.Sessions()[0].Connections; got != 3 {
		t.Errorf("%d connections through the tunnel after a direct one, want 3", got)
	}
	_ = c.Close()
	await(t, "the end of a connection", func() bool { return w.hub.Sessions()[0].Connections == 2 })
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
	w.node("n2", kubelet)
	w.agent("n2", kubelet)
	s := w.connected("n2", nil)

	closed, err := net.Listen("tcp", podIP+":0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	w.dialError(closed.Addr().String(), "connection refused")
	// A server that asks for more than the hub does gets no more.
	for _, target := range []string{kubelet, "127.0.0.1:22", "169.254.169.254:80", "n3:10250", "n2:22", "localhost:80"} {
		_, err := s.dial(t.Context(), target)
		refused := (*RefusedError)(nil)
		if !errors.As(err, &refused) || refused.Code != 403 {
			t.Errorf("the node was asked for %s: %v, want a refusal", target, err)
		}
	}
}

func TestContentAndEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
	w.node("n2", kubelet)
	w.agent("n2", kubelet)
	w.connected("n2", nil)

	t.Run("large both ways", func(t *testing.T) {
		data := make([]byte, 32<<20)
		_, _ = rand.Read(data)
		c := w.dial(testenv.Listen(t, podIP+":0", echo))
		go func() { _, _ = c.Write(data) }()
		h := sha256.New()
		if _, err := io.CopyN(h, c, int64(len(data))); err != nil {
			t.Fatal(err)
		}
		if want := sha256.Sum256(data); !bytes.Equal(h.Sum(nil), want[:]) {
			t.Error("the data came back changed")
		}
	})
	t.Run("the node's end", func(t *testing.T) {
		c := w.dial(testenv.Listen(t, podIP+":0", func(c net.Conn) {
			_, _ = io.WriteString(c, "all there is")
			_ = c.Close()
		}))
		if got, err := io.ReadAll(c); string(got) != "all there is" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		if _, err := c.Write([]byte("x")); err == nil {
			t.Error("writing to a connection that has ended succeeded")
		}
	})
	t.Run("the server's end", func(t *testing.T) {
		got := make(chan string, 1)
		c := w.dial(testenv.Listen(t, podIP+":0", func(c net.Conn) {
			all, err := io.ReadAll(c)
			got <- string(all)
			if err != nil {
				t.Error(err)
			}
			_ = c.Close()
		}))
		_, _ = io.WriteString(c, "last words")
		_ = c.Close()
		select {
		case text := <-got:
			if text != "last words" {
				t.Errorf("the pod read %q", text)
			}
		case <-time.After(10 * time.Second):
			t.Error("the pod was not told of the end")
		}
	})
	t.Run("a failure is no end", func(t *testing.T) {
		c := w.dial(testenv.Listen(t, podIP+":0", func(c net.Conn) {
			_, _ = io.WriteString(c, "half of")
			one := make([]byte, 1)
			_, _ = c.Read(one)
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close() // resets the connection
		}))
		half := make([]byte, len("half of"))
		if _, err := io.ReadFull(c, half); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("x"))
		if _, err := io.ReadAll(c); err == nil {
			t.Error("a connection that was reset looks as if it had ended")
		}
	})
	t.Run("deadlines", func(t *testing.T) {
		c := w.dial(testenv.Listen(t, podIP+":0", func(net.Conn) {}))
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !isTimeout(err) {
			t.Errorf("read: %v, want a timeout", err)
		}
	})
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// Readers that do not read, in either direction, must not hold up others: not
// even when all that may be buffered for them adds up to more than any default
// of the library for a whole connection.
func TestSlowReadersHoldUpNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
	w.node("n2", kubelet)
	w.agent("n2", kubelet)
	w.connected("n2", nil)

	piece := make([]byte, 1<<20)
	flood := testenv.Listen(t, podIP+":0", func(c net.Conn) {
		for {
			if _, err := c.Write(piece); err != nil {
				return
			}
		}
	})
	deaf := testenv.Listen(t, podIP+":0", func(net.Conn) {})
	var writers sync.WaitGroup
	for range 30 {
		w.dial(flood) // and nobody reads
		c := w.dial(deaf)
		_ = c.SetWriteDeadline(time.Now().Add(30 * time.Second))
		writers.Go(func() {
			for {
				if _, err := c.Write(piece); err != nil {
					return
				}
			}
		})
		t.Cleanup(func() { _ = c.Close() })
	}
	time.Sleep(300 * time.Millisecond) // until the buffers are full
	c := w.dial(testenv.Listen(t, podIP+":0", echo))
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	go func() { _, _ = c.Write(bytes.Repeat(piece, 8)) }()
	if _, err := io.CopyN(io.Discard, c, 8<<20); err != nil {
		t.Errorf("beside slow readers: %v", err)
	}
}

func TestStreamsAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
	pod := testenv.Listen(t, podIP+":0", echo)
	w.node("n2", kubelet)
	w.agent("n2", kubelet)
	w.connected("n2", nil)
	var first net.Conn
	for i := range agenttunnel.MaxStreams {
		c := w.dial(pod)
		if i == 0 {
			first = c
		}
	}
	w.dialError(pod, "carries 250 connections")
	_ = first.Close()
	await(t, "room for another", func() bool {
		c, err := w.hub.DialContext(t.Context(), "tcp", pod)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func TestDialEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
	w.node("n2", kubelet)
	w.hub.direct = func(ctx context.Context, _, _ string) (net.Conn, error) { // as behind NAT
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := w.hub.DialContext(ctx, "tcp", "n2:"+port(kubelet)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dial: %v", err)
	}
	// One that waits for the direct way moves to the tunnel when there is one.
	got := make(chan error, 1)
	go func() {
		c, err := w.hub.DialContext(context.WithoutCancel(ctx), "tcp", "n2:"+port(kubelet))
		if err == nil {
			_ = c.Close()
		}
		got <- err
	}()
	time.Sleep(10 * time.Millisecond)
	w.agent("n2", kubelet)
	select {
	case err := <-got:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the tunnel came up, and the dial did not notice")
	}
}

func TestDirectFailureExplainsItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.node("n2", "127.0.0.1:10250")
	w.hub.direct = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route to host") }
	w.dialError("n2:10250", "node n2 has no tunnel to this server, and directly: no route to host")
	w.dialError("example.com:443", "no route to host")
}

func port(address string) string { return address[strings.LastIndex(address, ":")+1:] }
