package standin

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// maxConnections is far above what a node's components open.
const maxConnections = 128

// pairListener hands connections of this process to an HTTP server. They are
// pairs of sockets and no net.Pipe, which has no buffer: TLS and HTTP/2 write on
// both ends before they read.
type pairListener struct {
	conns  chan net.Conn
	slots  chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newPairListener() *pairListener {
	return &pairListener{conns: make(chan net.Conn), slots: make(chan struct{}, maxConnections), closed: make(chan struct{})}
}

func (l *pairListener) dial(ctx context.Context) (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	default:
		return nil, fmt.Errorf("the stand-in API server has %d connections already", maxConnections)
	}
	release := sync.OnceFunc(func() { <-l.slots })
	ours, theirs, err := socketPair()
	if err != nil {
		release()
		return nil, err
	}
	served := &slotConn{Conn: theirs, release: release}
	select {
	case l.conns <- served:
		return ours, nil
	case <-l.closed:
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	_, _ = served.Close(), ours.Close()
	return nil, err
}

// socketPair returns the two ends of a connection.
func socketPair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "stand-in")
		end, fileErr := net.FileConn(file) // a duplicate
		_ = file.Close()
		if fileErr != nil {
			err = fmt.Errorf("make a pair of sockets: %w", fileErr)
			continue
		}
		ends[i] = end
	}
	if err != nil {
		for _, end := range ends {
			if end != nil {
				_ = end.Close()
			}
		}
		return nil, nil, err
	}
	return ends[0], ends[1], nil
}

// slotConn gives its place back when it is closed.
type slotConn struct {
	net.Conn
	release func()
}

func (c *slotConn) Close() error {
	c.release()
	return c.Conn.Close()
}

func (l *pairListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pairListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pairListener) Addr() net.Addr { return &net.UnixAddr{Name: "stand-in", Net: "unix"} }
