package tunnel

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/limpetio/limpet/internal/testenv"
)

// What an idle tunnel may cost, both of its ends taken together.
const (
	maxTunnelBytes      = 160 << 10
	maxTunnelGoroutines = 8
)

func TestCostOfATunnel(t *testing.T) { // not parallel: it looks at the whole process
	const tunnels = 50
	w := newWorld(t)
	kubelet := testenv.Listen(t, "127.0.0.1:0", echo)
	open := func(i int) {
		name := fmt.Sprintf("node-%d", i)
		w.node(name, kubelet)
		w.agent(name, kubelet)
		w.connected(name, nil)
	}
	open(0) // what all of them share
	usage := func() (bytes int64, goroutines int) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse), runtime.NumGoroutine()
	}
	bytes, goroutines := usage()
	for i := range tunnels {
		open(i + 1)
	}
	bytesAfter, goroutinesAfter := usage()
	each, eachGoroutines := (bytesAfter-bytes)/tunnels, float64(goroutinesAfter-goroutines)/tunnels
	t.Logf("a tunnel costs %d KiB and %.1f goroutines, both ends together", each>>10, eachGoroutines)
	if each > maxTunnelBytes || eachGoroutines > maxTunnelGoroutines {
		t.Errorf("that is more than %d KiB or %d goroutines", maxTunnelBytes>>10, maxTunnelGoroutines)
	}
}
