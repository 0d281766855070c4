package main

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// stubPods is an API with a fixed list and prepared events. It notes from which
// version the watch began.
type stubPods struct {
	items   []corev1.Pod
	events  []watch.Event
	watched string
}

func (s *stubPods) List(context.Context, metav1.ListOptions) (*corev1.PodList, error) {
	return &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: s.items}, nil
}

func (s *stubPods) Get(_ context.Context, name string, _ metav1.GetOptions) (*corev1.Pod, error) {
	for i := range s.items {
		if s.items[i].Name == name {
			return &s.items[i], nil
		}
	}
	return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
}

func (s *stubPods) Watch(_ context.Context, opts metav1.ListOptions) (watch.Interface, error) {
	s.watched = opts.ResourceVersion
	w := watch.NewFakeWithChanSize(len(s.events), false)
	for _, e := range s.events {
		w.Action(e.Type, e.Object)
	}
	w.Stop() // ends after the events
	return w, nil
}

func pod(name, version string, phase corev1.PodPhase) corev1.Pod {
	return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version}, Status: corev1.PodStatus{Phase: phase}}
}

func running(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }

func TestWatchOne(t *testing.T) {
	t.Parallel()
	pending, isRunning := pod("a", "3", corev1.PodPending), pod("a", "4", corev1.PodRunning)
	for _, tt := range []struct {
		name    string
		api     stubPods
		done    bool
		watched string
	}{
		{"there already", stubPods{items: []corev1.Pod{isRunning}}, true, ""},
		{"changes", stubPods{items: []corev1.Pod{pending}, events: []watch.Event{{Type: watch.Modified, Object: &isRunning}}}, true, "3"},
		{"comes later", stubPods{events: []watch.Event{{Type: watch.Added, Object: &pending}, {Type: watch.Modified, Object: &isRunning}}}, true, ""},
		{"is deleted", stubPods{items: []corev1.Pod{pending}, events: []watch.Event{{Type: watch.Deleted, Object: &isRunning}}}, false, "3"},
		{"watch breaks", stubPods{items: []corev1.Pod{pending}}, false, "3"},
	} {
		done, err := watchOne(t.Context(), &tt.api, "a", running)
		if done != tt.done || (err == nil) != tt.done || tt.api.watched != tt.watched {
			t.Errorf("%s: %t, %v, watched from %q", tt.name, done, err, tt.api.watched)
		}
	}
}

func TestFollow(t *testing.T) {
	t.Parallel()
	a, b := pod("a", "1", corev1.PodRunning), pod("b", "8", corev1.PodPending)
	api := stubPods{items: []corev1.Pod{a}, events: []watch.Event{
		{Type: watch.Added, Object: &b}, {Type: watch.Deleted, Object: &a}, {Type: watch.Modified, Object: &b},
	}}
	var seen []string
	err := follow(t.Context(), &api, metav1.ListOptions{}, func(obj runtime.Object, gone bool) {
		name := obj.(*corev1.Pod).Name
		if gone {
			name = "-" + name
		}
		seen = append(seen, name)
	}, func() bool { return len(seen) == 3 })
	if err != nil || !slices.Equal(seen, []string{"a", "b", "-a"}) || api.watched != "7" {
		t.Errorf("saw %v, error %v, watched from %q", seen, err, api.watched)
	}

	// What is true of an empty list needs no event.
	if err := follow(t.Context(), &stubPods{}, metav1.ListOptions{}, nil, func() bool { return true }); err != nil {
		t.Errorf("empty list: %v", err)
	}
	// A watch that breaks is no success.
	if err := follow(t.Context(), &stubPods{}, metav1.ListOptions{}, nil, func() bool { return false }); err == nil {
		t.Error("no error when the watch ended")
	}
}
