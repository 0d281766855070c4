// Package testenv makes what tests of several packages need around them: small
// file systems, listeners of a certain behaviour. Only tests import it.
package testenv

import (
	"fmt"
	"net"
	"syscall"
	"testing"
)

// SmallDisk is a directory on a file system of its own with so many bytes. The
// test is skipped where none can be mounted, which takes root.
func SmallDisk(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("limpet-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		t.Skipf("cannot make a small file system, which takes root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// Loopback is an address for Listen with a port that is free.
const Loopback = "127.0.0.1:0"

// Listen accepts TCP connections on an address (HOST:PORT; it returns the one it
// got) until the test ends, has each handled in a goroutine of its own, and
// closes them all in the end.
func Listen(t *testing.T, address string, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = conn.Close() })
			go handle(conn)
		}
	}()
	return l.Addr().String()
}
