// Package sdnotify tells the init system how far limpet has come.
package sdnotify

import (
	"net"
	"os"
)

// Notifier sends to systemd's notification socket; without one it does nothing.
type Notifier struct{ socket string }

// Take reads NOTIFY_SOCKET and takes it, and the watchdog's variables, out of
// the environment: kube-apiserver and kubelet would announce that the service
// is ready, each when it is up itself, and the kubelet would drive the watchdog.
func Take() Notifier {
	n := Notifier{socket: os.Getenv("NOTIFY_SOCKET")}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(name) // fails only for malformed names
	}
	return n
}

// Ready says that the service is up.
func (n Notifier) Ready() { n.send("READY=1") }

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
