// Package quiet keeps client-go's work queues from waking up when idle.
//
// Every named work queue of a process that imports component-base's Prometheus
// provider runs a goroutine with a 500 ms ticker, only to refresh two gauges
// (client-go/util/workqueue, updateUnfinishedWorkLoop). A server has about 80
// such queues: 160 wake-ups a second and a fifth of the idle CPU. The only
// provider for which no goroutine is started is workqueue's own unexported
// no-op, and the first call of SetProvider wins. So this package sets that very
// value, before component-base's init can set its own.
//
// It depends on the order of package initialisation, which the Go
// specification fixes since 1.21: sorted by import path among the packages
// whose imports are ready. This one imports only workqueue, and
// "github.com/…" sorts before "k8s.io/component-base/…". A test in package
// server fails if that ever changes.
package quiet

import (
	"reflect"
	_ "unsafe" // for go:linkname

	"k8s.io/client-go/util/workqueue"
)

//go:linkname provider k8s.io/client-go/util/workqueue.globalMetricsProvider
var provider workqueue.MetricsProvider

// init is forced by the library: nothing else runs before other packages' init.
func init() { workqueue.SetProvider(provider) }

// Enabled reports whether work queues run without metrics: the provider in
// effect is still workqueue's own.
func Enabled() bool {
	return reflect.TypeOf(provider).PkgPath() == "k8s.io/client-go/util/workqueue"
}
