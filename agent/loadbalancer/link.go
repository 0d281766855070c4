package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dialTimeout = 2 * time.Second
	// helloTimeout is for the client's first message.
	helloTimeout = 10 * time.Second
	// answerTimeout is for the server's answer to it.
	answerTimeout = 5 * time.Second
	// defaultPatience is for how long connections wait when the last server is
	// lost; client-go gives up on a TLS handshake after 10 seconds.
	defaultPatience = 8 * time.Second
	// lingerTimeout bounds the second direction after the first has ended.
	lingerTimeout = 30 * time.Second
	// unacknowledged is how long a server may leave data or a keep-alive
	// without acknowledgement before its connection counts as dead.
	unacknowledged = 10 * time.Second
)

// standInAddr marks links to the stand-in; it is no address.
const standInAddr = "stand-in"

// link is one connection of a client, with the server's once there is one.
type link struct {
	client *net.TCPConn

	// The following are set once, under Balancer.mu.
	addr     string
	upstream net.Conn
	closed   bool
}

// admit takes a new connection in, unless there are too many.
func (b *Balancer) admit(l *link) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.links) >= b.opts.MaxConnections {
		if now := time.Now(); now.Sub(b.refused) > time.Minute {
			b.refused = now
			b.opts.Logger.Warn("too many connections to the API server from this machine; further ones are refused", "limit", b.opts.MaxConnections)
		}
		return false
	}
	b.links[l] = struct{}{}
	return true
}

// dismiss closes whatever is open of the link and forgets it.
func (b *Balancer) dismiss(l *link) {
	b.closeLinks(func(other *link) bool { return other == l })
	b.mu.Lock()
	delete(b.links, l)
	b.mu.Unlock()
}

// closeLinks closes the connections of the links that match. Their goroutines end by that.
func (b *Balancer) closeLinks(match func(*link) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for l := range b.links {
		if !l.closed && match(l) {
			l.closed = true
			_ = l.client.Close() // nothing was promised to either side
			if l.upstream != nil {
				_ = l.upstream.Close()
			}
		}
	}
}

// attach binds the link to a server's connection. It is refused when the link
// has been closed meanwhile, or when a stand-in has become superfluous.
func (b *Balancer) attach(l *link, addr string, upstream net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l.closed || addr == standInAddr && b.hasReached() {
		return false
	}
	l.addr, l.upstream = addr, upstream
	return true
}

// serve brings one client to a server.
func (b *Balancer) serve(ctx context.Context, l *link) {
	hello, err := readHello(l.client)
	if err != nil {
		return // it has gone, or never meant to say anything
	}
	var tried []string
	for {
		addr, wait := b.choose(tried)
		switch {
		case addr != "":
			answer, upstream, err := b.open(ctx, addr, hello)
			if err != nil {
				tried = append(tried, addr)
				b.opts.Logger.Debug("server does not answer", "server", addr, "error", err)
				continue
			}
			if !b.attach(l, addr, upstream) {
				_ = upstream.Close()
				if addr == standInAddr {
					continue // a server has been reached in this moment
				}
				return
			}
			b.pass(l, answer)
			return
		case wait == nil:
			return
		}
		select {
		case <-wait.changed:
			tried = nil
		case <-time.After(wait.limit):
			return
		case <-ctx.Done():
			return
		}
	}
}

// waiting says for what, and how long, a client waits that has no server.
type waiting struct {
	changed <-chan struct{}
	limit   time.Duration
}

// choose returns the server to try next, or what to wait for, or neither: the
// client is to be closed.
func (b *Balancer) choose(tried []string) (string, *waiting) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.opts.StandIn != nil && !b.hasReached() {
		switch {
		case !b.pool.explored():
			return "", &waiting{b.changed, b.opts.patience}
		case slices.Contains(tried, standInAddr):
			return "", nil
		}
		return standInAddr, nil
	}
	for _, addr := range b.pool.candidates() {
		if !slices.Contains(tried, addr) {
			return addr, nil
		}
	}
	if b.pool.downSince.IsZero() {
		// Every server that should work was tried in vain.
		return "", nil
	}
	b.pool.demanded(now)
	b.wakeUp()
	if left := b.pool.downSince.Add(b.opts.patience).Sub(now); left > 0 {
		return "", &waiting{b.changed, left}
	}
	return "", nil
}

// open connects to a server, hands it the client's first message and returns
// its answer. Failures are taken in by the pool.
func (b *Balancer) open(ctx context.Context, addr string, hello []byte) (answer []byte, upstream net.Conn, err error) {
	if addr == standInAddr {
		upstream, err = b.opts.StandIn(ctx)
	} else {
		upstream, err = dial(ctx, addr)
		if err != nil && ctx.Err() == nil {
			b.take(addr, Failed, err.Error())
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if answer, err = exchange(ctx, upstream, hello); err != nil {
		_ = upstream.Close()
		b.suspect(addr)
		return nil, nil, err
	}
	return answer, upstream, nil
}

func exchange(ctx context.Context, conn net.Conn, hello []byte) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(hello); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if n == 0 {
		return nil, fmt.Errorf("no answer: %w", err)
	}
	return buf[:n], conn.SetDeadline(time.Time{})
}

// pass copies in both directions until both have ended.
func (b *Balancer) pass(l *link, answer []byte) {
	if _, err := l.client.Write(answer); err != nil {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { b.copyOneWay(l, l.upstream, l.client) })
	b.copyOneWay(l, l.client, l.upstream)
	wg.Wait()
}

func (b *Balancer) copyOneWay(l *link, to, from net.Conn) {
	_, err := io.Copy(to, from)
	if dead(err) {
		b.suspect(l.addr)
	}
	if half, ok := to.(interface{ CloseWrite() error }); err != nil || !ok || half.CloseWrite() != nil {
		b.closeLinks(func(other *link) bool { return other == l })
		return
	}
	// The other direction may have something left to say, but not for ever.
	_ = to.SetReadDeadline(time.Now().Add(lingerTimeout)) // fails only when it is closed
}

// dead reports errors that tell of the path to the other side, or of its end.
func dead(err error) bool {
	for _, e := range []error{syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// dial connects to a server such that a dead path is noticed.
func dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: unacknowledged / 2, Count: 2},
		Control: func(_, _ string, c syscall.RawConn) error {
			var err error
			ctlErr := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
			})
			return errors.Join(ctlErr, err)
		},
	}
	return d.DialContext(ctx, "tcp", addr)
}

// readHello reads the client's first message: one whole TLS record, so that it
// can be given to another server if the first does not answer it. What is no
// TLS is taken as it comes.
func readHello(client net.Conn) ([]byte, error) {
	const header, handshake, maxRecord = 5, 22, 1<<14 + 2048
	if err := client.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return nil, err
	}
	buf := make([]byte, header+maxRecord)
	n, err := io.ReadAtLeast(client, buf, 1)
	if err != nil {
		return nil, err
	}
	if buf[0] == handshake {
		m, err := readRest(client, buf, n, header)
		if err != nil {
			return nil, err
		}
		length := int(buf[3])<<8 | int(buf[4])
		if length > maxRecord {
			return nil, errors.New("malformed TLS record")
		}
		if n, err = readRest(client, buf, m, header+length); err != nil {
			return nil, err
		}
	}
	return slices.Clone(buf[:n]), client.SetReadDeadline(time.Time{})
}

// readRest reads on until at least want bytes of buf are filled, of which have are.
func readRest(r io.Reader, buf []byte, have, want int) (int, error) {
	if have >= want {
		return have, nil
	}
	n, err := io.ReadAtLeast(r, buf[have:], want-have)
	return have + n, err
}
