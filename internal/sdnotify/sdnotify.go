// Package sdnotify tells the init system how far limpet has come.
package sdnotify

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// SocketVariable is where the init system says where it listens.
const SocketVariable = "NOTIFY_SOCKET"

// Notifier sends to systemd's notification socket; without one it does nothing.
type Notifier struct{ socket string }

// To returns a notifier for a socket; empty: it does nothing.
func To(socket string) Notifier { return Notifier{socket: socket} }

// Take reads NOTIFY_SOCKET and takes it, and the watchdog's variables, out of
// the environment: kube-apiserver and kubelet would announce that the service
// is ready, each when it is up itself, and the kubelet would drive the watchdog.
func Take() Notifier {
	n := To(os.Getenv(SocketVariable))
	for _, name := range []string{SocketVariable, "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(name) // fails only for malformed names
	}
	return n
}

// Ready says that the service is up.
func (n Notifier) Ready() { n.send("READY=1") }

// Reloading says that the service begins anew without having ended; Ready
// follows when it is up again.
func (n Notifier) Reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return // this clock always exists
	}
	n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// Stopping says that the service is going down in order.
func (n Notifier) Stopping() { n.send("STOPPING=1") }

// Status sets the line that `systemctl status` shows.
func (n Notifier) Status(line string) { n.send("STATUS=" + line) }

// send is best effort: an init system that does not listen is no reason to fail.
func (n Notifier) send(state string) {
	if n.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return
	}
	_, _ = conn.Write([]byte(state))
	_ = conn.Close()
}
