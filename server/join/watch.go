package join

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// watched is a small set of objects, kept up to date by one watch.
type watched struct {
	store cache.Store
	// changed gets a value after a change; several changes may share one.
	changed chan struct{}
}

// watch starts to follow the objects of a resource ("secrets") in a namespace
// that a field selector selects, until ctx is done. It returns when all are there.
func watch(ctx context.Context, client rest.Interface, resource, namespace, selector string, kind runtime.Object) (*watched, error) {
	w := &watched{changed: make(chan struct{}, 1)}
	notify := func() {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
	list := cache.NewFilteredListWatchFromClient(client, resource, namespace, func(o *metav1.ListOptions) { o.FieldSelector = selector })
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: list, ObjectType: kind,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { notify() },
			UpdateFunc: func(any, any) { notify() },
			DeleteFunc: func(any) { notify() },
		},
	})
	w.store = store
	go controller.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), controller.HasSynced) {
		return nil, fmt.Errorf("watch %s: %w", resource, ctx.Err())
	}
	return w, nil
}

// all are the objects of the store as what they are.
func all[T runtime.Object](w *watched) []T {
	var out []T
	for _, o := range w.store.List() {
		if typed, ok := o.(T); ok {
			out = append(out, typed)
		}
	}
	return out
}
