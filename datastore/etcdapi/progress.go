package etcdapi

import (
	"sync"
	"time"
)

// notifier decides when watches are to be told how far they are.
//
// It has one timer, which a change starts and which fires once: as long as
// nothing changes there is nothing to tell.
type notifier struct {
	interval time.Duration

	mu      sync.Mutex
	streams map[*stream]struct{} // with a watch that wants notifications
	waiting map[*stream]struct{} // that want to look again after the next change
	timer   *time.Timer
	armed   bool
	stopped bool
}

func newNotifier(interval time.Duration) *notifier {
	return &notifier{interval: interval, streams: map[*stream]struct{}{}, waiting: map[*stream]struct{}{}}
}

// published is called after each change, with the store's hub locked.
func (n *notifier) published() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.start()
	for st := range n.waiting {
		st.signal()
	}
	clear(n.waiting)
}

// arm starts the timer for a stream that has something to tell although nothing
// has changed.
func (n *notifier) arm() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.start()
}

func (n *notifier) start() {
	switch {
	case n.armed || n.stopped || len(n.streams) == 0:
		return
	case n.timer == nil:
		n.timer = time.AfterFunc(n.interval, n.fire)
	default:
		n.timer.Reset(n.interval)
	}
	n.armed = true
}

func (n *notifier) fire() {
	n.mu.Lock()
	n.armed = false
	due := make([]*stream, 0, len(n.streams))
	for st := range n.streams {
		due = append(due, st)
	}
	n.mu.Unlock()
	for _, st := range due {
		st.notifyProgress()
	}
}

// add has a stream notified from now on.
func (n *notifier) add(st *stream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.streams[st] = struct{}{}
}

// await wakes a stream at the next change.
func (n *notifier) await(st *stream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.waiting[st] = struct{}{}
}

func (n *notifier) remove(st *stream) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.streams, st)
	delete(n.waiting, st)
}

func (n *notifier) stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stopped = true
	if n.timer != nil {
		n.timer.Stop()
	}
}
