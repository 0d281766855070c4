// Package machine is what a limpet does with the machine it runs on, whatever
// it runs there: taking the data directory, unpacking the helper programs,
// looking for taken ports.
package machine

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// RequireRoot explains itself before anything fails with "permission denied".
func RequireRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("this must run as root: it starts containers and configures the network")
	}
	return nil
}

// RunDir creates the run-time directory. Pods with a user namespace of their
// own pass through it on the way to their root file system; what is in it
// protects itself.
func RunDir(path string) error {
	if err := os.MkdirAll(path, 0o711); err != nil {
		return fmt.Errorf("create run-time directory: %w", err)
	}
	if err := os.Chmod(path, 0o711); err != nil {
		return fmt.Errorf("open run-time directory: %w", err)
	}
	return nil
}

// PortFree fails if another program listens on the TCP port; port 0 is one
// that is switched off. user names who needs it, remedy ends the sentence
// "stop it …".
func PortFree(user string, at netip.AddrPort, remedy string) error {
	if at.Port() == 0 {
		return nil
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d, for %s, is taken by another program (ss -tlnp 'sport = %d' shows which); stop it %s", at.Port(), user, at.Port(), remedy)
	}
	if err != nil {
		return fmt.Errorf("listen on %s for %s: %w; %s", at, user, err, remedy)
	}
	return l.Close()
}
