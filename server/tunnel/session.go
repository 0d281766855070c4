package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	agenttunnel "github.com/limpetio/limpet/agent/tunnel"
)

// answerTimeout is how long a node may take to say whether a connection stands:
// its own DialTimeout and the way there and back.
const answerTimeout = agenttunnel.DialTimeout + 5*time.Second

// defaultSilence is how long nothing at all may come from a node that was asked for a
// connection: then the tunnel is taken for lost, without waiting for the next
// ping. It happens when a NAT was restarted.
const defaultSilence = 8 * time.Second

// session is the tunnel of one node.
type session struct {
	node   string
	remote string // the node's address as seen here
	since  time.Time
	client *http.ClientConn
	conn   *heard
	expiry *time.Timer // ends the session with the certificate that it began with
	// silence is how long the node may be silent when it is asked for a connection.
	silence time.Duration
}

// newSession speaks HTTP/2 on a connection that was just upgraded. closed is
// called once, when the session has ended.
func newSession(node string, upgraded net.Conn, notAfter time.Time, silence time.Duration, closed func(*session)) (*session, error) {
	conn := &heard{Conn: upgraded}
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true) // conn is encrypted already
	transport := &http.Transport{
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		Protocols:              protocols,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 1 << 13,
		HTTP2: &http.HTTP2Config{
			// The window of the connection is left at the library's 1 GiB.
			MaxReceiveBufferPerStream: agenttunnel.StreamBuffer,
			SendPingTimeout:           agenttunnel.PingAfter, PingTimeout: agenttunnel.PingTimeout,
			WriteByteTimeout: agenttunnel.WriteTimeout,
		},
	}
	client, err := transport.NewClientConn(context.Background(), "http", "node:80")
	if err != nil {
		return nil, fmt.Errorf("begin HTTP/2: %w", err)
	}
	s := &session{silence: silence, node: node, remote: conn.RemoteAddr().String(), since: time.Now(), client: client, conn: conn}
	s.expiry = time.AfterFunc(time.Until(notAfter), s.close)
	var once atomic.Bool
	client.SetStateHook(func(c *http.ClientConn) {
		if c.Err() != nil && once.CompareAndSwap(false, true) {
			s.expiry.Stop()
			_ = conn.Close()
			closed(s)
		}
	})
	return s, nil
}

// close ends the session and all connections through it.
func (s *session) close() {
	_ = s.client.Close()
	_ = s.conn.Close()
}

// alive reports whether connections can be made.
func (s *session) alive() bool { return s.client.Err() == nil }

// heard counts the reads that brought something.
type heard struct {
	net.Conn
	reads atomic.Uint64
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	if n > 0 {
		h.reads.Add(1)
	}
	return n, err
}

// errLost tells that the tunnel broke before the node answered.
var errLost = errors.New("the tunnel was lost")

// RefusedError is the node's answer that it does not, or cannot, connect.
type RefusedError struct {
	Node, Target string
	Code         int
	Text         string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("node %s, through its tunnel, to %s: %s (HTTP %d)", e.Node, e.Target, e.Text, e.Code)
}

// dial asks the node to connect to target (HOST:PORT). The error is or wraps
// errLost, a *RefusedError or the context's.
func (s *session) dial(ctx context.Context, target string) (net.Conn, error) {
	if err := s.client.Reserve(); err != nil {
		if !s.alive() {
			return nil, errLost
		}
		return nil, fmt.Errorf("the tunnel of node %s carries %d connections already, the most there may be", s.node, agenttunnel.MaxStreams)
	}
	// The request lives as long as the connection, its answer not longer than ctx.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	wait, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	stop := context.AfterFunc(wait, end)
	before := s.conn.reads.Load()
	suspect := time.AfterFunc(s.silence, func() {
		if s.conn.reads.Load() == before {
			s.close()
		}
	})
	defer suspect.Stop()
	near, far := net.Pipe()
	req := &http.Request{
		Method: http.MethodConnect, URL: &url.URL{Scheme: "http", Host: target}, Host: target,
		Header: http.Header{}, Body: body{far}, ContentLength: -1,
	}
	resp, err := s.client.RoundTrip(req.WithContext(life))
	switch {
	case err == nil && resp.StatusCode == http.StatusOK && stop():
		c := &conn{Conn: near, local: address(s.node), remote: address(target)}
		go c.receive(resp.Body, far, end)
		return c, nil
	case err == nil && resp.StatusCode != http.StatusOK:
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512)) // the status says enough if this fails
		err = &RefusedError{Node: s.node, Target: target, Code: resp.StatusCode, Text: strings.TrimSpace(string(text))}
	}
	if resp != nil {
		_ = resp.Body.Close()
	}
	end()
	_, _ = near.Close(), far.Close()
	refused := (*RefusedError)(nil)
	switch {
	case errors.As(err, &refused):
		return nil, err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case wait.Err() != nil:
		return nil, fmt.Errorf("node %s did not answer within %s through its tunnel", s.node, answerTimeout)
	}
	return nil, fmt.Errorf("%w: node %s: %w", errLost, s.node, err)
}

// body is the request's body: what is written to the other end of the pipe.
type body struct{ net.Conn }

// Close lets go of a Read. It must not close the pipe, through which data of
// the node may still be on its way.
func (b body) Close() error { return b.SetReadDeadline(time.Unix(1, 0)) }

// conn is a connection through the tunnel. The pipe gives it deadlines.
type conn struct {
	net.Conn
	local, remote address
	failure       atomic.Pointer[error]
}

// receive passes on what comes from the node until one of both is at its end.
func (c *conn) receive(from io.ReadCloser, far net.Conn, end context.CancelFunc) {
	_, err := io.CopyBuffer(far, onlyReader{from}, make([]byte, agenttunnel.CopyBuffer))
	if err != nil {
		err = fmt.Errorf("tunnel: %w", err)
		c.failure.Store(&err)
	}
	_ = far.Close()
	_ = from.Close()
	end()
}

// onlyReader hides all but Read, so that io.CopyBuffer uses its buffer.
type onlyReader struct{ io.Reader }

// Read tells a broken tunnel from the end of the data.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		if failure := c.failure.Load(); failure != nil {
			return n, *failure
		}
	}
	return n, err
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// address is an end of a connection through the tunnel.
type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

// hijacked takes the connection of a request over and sends the answer's head.
func hijacked(w http.ResponseWriter, id string) (net.Conn, error) {
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		return nil, errors.New("this connection cannot be upgraded: HTTP/1.1 is needed")
	}
	conn, rw, err := hijacker.Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the connection: %w", err)
	}
	if err := answer(conn, rw.Reader, id); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// answer switches protocols. The node is silent until it has the answer.
func answer(conn net.Conn, buffered *bufio.Reader, id string) error {
	if n := buffered.Buffered(); n > 0 {
		return fmt.Errorf("the node sent %d bytes before the tunnel stood", n)
	}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	_, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\n\r\n",
		agenttunnel.Protocol, agenttunnel.ServerHeader, id)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return conn.SetDeadline(time.Time{})
}
