package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// watcher is the part of a typed client that waiting needs.
type watcher interface {
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

// await watches the named object until lacks says "" and returns it. lacks says
// what is still missing; that is the message when ctx ends first.
func await[T metav1.Object](ctx context.Context, t *testing.T, client watcher, name string, lacks func(T) string) T {
	t.Helper()
	missing := "it does not exist"
	var found T
	err := watchUntil(ctx, client, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()},
		func(e watch.Event) bool {
			obj, ok := e.Object.(T)
			switch {
			case !ok:
				return false
			case e.Type == watch.Deleted:
				missing = "it was deleted"
				return false
			}
			found = obj
			missing = lacks(obj)
			return missing == ""
		})
	if err != nil {
		t.Fatalf("waiting for %T %s: %v: %s", found, name, err, missing)
	}
	return found
}

// awaitGone watches until the named object does not exist.
func awaitGone[T any](ctx context.Context, t *testing.T, client interface {
	watcher
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
}, name string) {
	t.Helper()
	for {
		_, err := client.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("waiting for the end of %s: %v, %v", name, ctx.Err(), err)
		}
		// One that goes between Get and Watch is noticed a second later.
		short, cancel := context.WithTimeout(ctx, time.Second)
		_ = watchUntil(short, client, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()},
			func(e watch.Event) bool { return e.Type == watch.Deleted })
		cancel()
	}
}

// watchUntil gives every event to done, from the present state on (an object
// that exists comes as ADDED), until it returns true. A broken watch is begun
// again: the server of some tests is restarted.
func watchUntil(ctx context.Context, client watcher, opts metav1.ListOptions, done func(watch.Event) bool) error {
	for {
		w, err := client.Watch(ctx, opts)
		if err == nil {
			err = consume(ctx, w, done)
			w.Stop()
			if err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			if errors.Is(err, errWatchEnded) || errors.Is(err, ctx.Err()) {
				err = nil
			}
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(200 * time.Millisecond): // the server is away: nothing to watch
		}
	}
}

var errWatchEnded = errors.New("watch ended")

func consume(ctx context.Context, w watch.Interface, done func(watch.Event) bool) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == watch.Error {
				return errWatchEnded
			}
			if done(e) {
				return nil
			}
		}
	}
}

// awaitSet watches all objects that opts select until lacks says "" about the
// whole set. The set is complete from the first call on.
func awaitSet[T metav1.Object](ctx context.Context, t *testing.T, client watcher, opts metav1.ListOptions, lacks func([]T) string) []T {
	t.Helper()
	// The API server sends what exists and then a bookmark.
	opts.SendInitialEvents = new(bool)
	*opts.SendInitialEvents = true
	opts.AllowWatchBookmarks = true
	opts.ResourceVersionMatch = metav1.ResourceVersionMatchNotOlderThan
	set := map[types.UID]T{}
	var list []T
	complete, missing := false, "nothing was listed yet"
	begin := func() { // also after a restart of the server
		clear(set)
		complete = false
	}
	err := watchUntil(ctx, beginning{client, begin}, opts, func(e watch.Event) bool {
		obj, ok := e.Object.(T)
		switch {
		case e.Type == watch.Bookmark:
			complete = true
		case !ok:
			return false
		case e.Type == watch.Deleted:
			delete(set, obj.GetUID())
		default:
			set[obj.GetUID()] = obj
		}
		if !complete {
			return false
		}
		list = list[:0]
		for _, o := range set {
			list = append(list, o)
		}
		missing = lacks(list)
		return missing == ""
	})
	if err != nil {
		var zero T
		t.Fatalf("waiting for a set of %T (%s%s): %v: %s", zero, opts.LabelSelector, opts.FieldSelector, err, missing)
	}
	return list
}

// beginning tells when a watch begins.
type beginning struct {
	watcher
	begin func()
}

func (b beginning) Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	b.begin()
	return b.watcher.Watch(ctx, opts)
}

// eventually tries until there is no error, for what announces itself by no
// event: a rule in the kernel, a name in the DNS.
func eventually(ctx context.Context, t *testing.T, what string, try func() error) {
	t.Helper()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v; the last attempt: %v", what, context.Cause(ctx), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// podReady says what a pod lacks to be Ready.
func podReady(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
			return ""
		}
	}
	return describe(p)
}

// podEnded says what a pod lacks to have succeeded or failed.
func podEnded(p *corev1.Pod) string {
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return ""
	}
	return describe(p)
}

// describe is a pod's state in one line.
func describe(p *corev1.Pod) string {
	s := fmt.Sprintf("phase %s %s %s", p.Status.Phase, p.Status.Reason, p.Status.Message)
	for _, c := range append(append([]corev1.ContainerStatus{}, p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
		s += fmt.Sprintf("; container %s ready=%t restarts=%d", c.Name, c.Ready, c.RestartCount)
		switch {
		case c.State.Waiting != nil:
			s += fmt.Sprintf(" waiting: %s %s", c.State.Waiting.Reason, c.State.Waiting.Message)
		case c.State.Terminated != nil:
			s += fmt.Sprintf(" terminated: %s, exit code %d %s", c.State.Terminated.Reason, c.State.Terminated.ExitCode, c.State.Terminated.Message)
		}
	}
	return s
}

// readyAddresses are the addresses that get a Service's traffic.
func readyAddresses(slices []*discoveryv1.EndpointSlice) []string {
	var list []string
	for _, s := range slices {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				list = append(list, e.Addresses...)
			}
		}
	}
	return list
}

// eventAbout waits for an Event anywhere in the cluster that match accepts.
func eventAbout(ctx context.Context, t *testing.T, c *cluster, what string, match func(*corev1.Event) bool) {
	t.Helper()
	awaitSet(ctx, t, c.client.CoreV1().Events(metav1.NamespaceAll), metav1.ListOptions{}, func(all []*corev1.Event) string {
		for _, e := range all {
			if match(e) {
				return ""
			}
		}
		return fmt.Sprintf("none of %d Events is %s", len(all), what)
	})
}
