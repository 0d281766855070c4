package e2e

import (
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
)

// notifySocket is an abstract one: it belongs to the network namespace and needs no file.
const notifySocket = "@limpet-e2e"

// serviceManager listens in the place as systemd does and returns what tells
// the messages so far.
func (p place) serviceManager(t *testing.T) func() []string {
	t.Helper()
	var conn net.PacketConn
	err := p.within(func() (err error) {
		conn, err = net.ListenPacket("unixgram", notifySocket)
		return err
	})
	if err != nil {
		t.Fatalf("listen on %s in %s: %v", notifySocket, p.name, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	var mu sync.Mutex
	var messages []string
	go func() {
		buf := make([]byte, 4096)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			mu.Lock()
			messages = append(messages, string(buf[:n]))
			mu.Unlock()
		}
	}()
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(messages)
	}
}

// checkMessages wants one end, then one start, and not a word from any
// component that takes itself for the service.
func checkMessages(t *testing.T, messages []string) {
	t.Helper()
	order := slices.DeleteFunc(slices.Clone(messages), func(m string) bool { return strings.HasPrefix(m, "STATUS=") })
	if !slices.Equal(order, []string{"STOPPING=1", "READY=1"}) {
		t.Errorf("the init system was told %q, want STOPPING=1 and later READY=1, each once", messages)
	}
}
