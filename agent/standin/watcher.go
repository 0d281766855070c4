package standin

import (
	"errors"
	"fmt"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

var errChanged = errors.New("the object has changed since it was read; read it again")

// watchBuffer is how many events a client may lag behind before it has to begin anew.
const watchBuffer = 256

// watcher is one client's watch. It implements watch.Interface.
type watcher struct {
	table     *table
	selection selection
	events    chan watch.Event
	gone      bool // events is closed; under table.mu
}

// watchOptions say where a watch begins.
type watchOptions struct {
	selection
	// revision is the one that the client has seen; "" or "0" begins with all objects.
	revision string
	// initial asks for all objects, whatever the revision; bookmark for the sign
	// behind them that they were all.
	initial, bookmark bool
}

// watch begins a watch. Changes are not kept: a client that has seen an older
// revision than the current one has to list again.
func (t *table) watch(o watchOptions) (watch.Interface, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil, errServerIsBack()
	}
	all := o.initial || o.revision == "" || o.revision == "0"
	if !all {
		seen, err := strconv.ParseUint(o.revision, 10, 64)
		if err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version %q", o.revision))
		}
		if seen != t.revision {
			return nil, apierrors.NewResourceExpired(fmt.Sprintf("resource version %d is not the current one (%d): list again", seen, t.revision))
		}
	}
	var objects []runtime.Object
	if all {
		objects = t.selected(o.selection)
	}
	w := &watcher{table: t, selection: o.selection, events: make(chan watch.Event, watchBuffer+len(objects)+1)}
	for _, obj := range objects {
		w.events <- watch.Event{Type: watch.Added, Object: obj}
	}
	if o.initial && o.bookmark {
		w.events <- watch.Event{Type: watch.Bookmark, Object: t.bookmark()}
	}
	t.watchers[w] = struct{}{}
	return w, nil
}

// bookmark tells a client that it has got all objects; mu is held.
func (t *table) bookmark() runtime.Object {
	obj := t.kind.newObject()
	if m, err := meta.Accessor(obj); err == nil {
		m.SetResourceVersion(t.currentRevision())
		m.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return obj
}

// send queues an event; a client that does not keep up is cut off. table.mu is held.
func (w *watcher) send(event watch.EventType, obj runtime.Object) {
	select {
	case w.events <- watch.Event{Type: event, Object: obj.DeepCopyObject()}:
	default:
		w.end()
	}
}

// end closes the watch; table.mu is held.
func (w *watcher) end() {
	if !w.gone {
		w.gone = true
		delete(w.table.watchers, w)
		close(w.events)
	}
}

// Stop implements watch.Interface.
func (w *watcher) Stop() {
	w.table.mu.Lock()
	defer w.table.mu.Unlock()
	w.end()
}

// ResultChan implements watch.Interface.
func (w *watcher) ResultChan() <-chan watch.Event { return w.events }

// end tells all watchers that they have to ask the real server, and lets nobody
// begin another watch.
func (t *table) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	status := errServerIsBack().Status()
	for w := range t.watchers {
		select {
		case w.events <- watch.Event{Type: watch.Error, Object: &status}:
		default:
		}
		w.end()
	}
	t.objects = map[string]runtime.Object{}
}

// errServerIsBack makes clients list anew, which leads them to the real server.
func errServerIsBack() *apierrors.StatusError {
	return apierrors.NewResourceExpired("a server of the cluster has been reached: the node's own record is not served any more")
}
