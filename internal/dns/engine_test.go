package dns

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"
)

// CoreDNS cannot stop a listener that does not serve yet; see awaitServing.
func TestStopsRightAfterItsStart(t *testing.T) {
	addr := netip.MustParseAddr("127.0.0.1")
	for range 30 {
		listen := []netip.AddrPort{netip.AddrPortFrom(addr, uint16(freePort(t)))}
		dir := t.TempDir()
		e := engine{log: slog.New(slog.DiscardHandler), runDir: dir}
		if err := e.prepare(); err != nil {
			t.Fatal(err)
		}
		text := "whoami.test.:" + listen[0].String()[len("127.0.0.1:"):] + " {\n bind 127.0.0.1\n whoami\n}\n"
		if err := e.apply(plan{text: text, dir: filepath.Join(dir, "files")}, listen); err != nil {
			t.Fatal(err)
		}
		stopped := make(chan error, 1)
		go func() { stopped <- e.stop() }()
		select {
		case err := <-stopped:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the server does not stop")
		}
	}
}
