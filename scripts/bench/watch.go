package main

import (
	"context"
	"errors"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// lister is the half of a typed client that watching needs.
type lister[L runtime.Object] interface {
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

// getter is lister with Get.
type getter[T, L runtime.Object] interface {
	lister[L]
	Get(ctx context.Context, name string, opts metav1.GetOptions) (T, error)
}

// watchOne returns true when done says so of the named object. An error, or
// false, means that the watch has ended before and must begin again.
func watchOne[T, L runtime.Object](ctx context.Context, from getter[T, L], name string, done func(T) bool) (bool, error) {
	version := ""
	obj, err := from.Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil && done(obj):
		return true, nil
	case err == nil:
		accessor, err := meta.Accessor(obj)
		if err != nil {
			return false, err
		}
		version = accessor.GetResourceVersion()
	case !apierrors.IsNotFound(err):
		return false, err
	}
	// Without a version the watch begins with the object, if it exists by now.
	w, err := from.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String(), ResourceVersion: version,
	})
	if err != nil {
		return false, err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			return false, apierrors.FromObject(event.Object)
		}
		if obj, ok := event.Object.(T); ok && event.Type != watch.Deleted && done(obj) {
			return true, nil
		}
	}
	return false, errors.New("the watch has ended")
}

// follow lists what the options select and hands every object to seen, then
// goes on with every change, until done returns true. done is asked after the
// list and after each change.
func follow[L runtime.Object](ctx context.Context, from lister[L], opts metav1.ListOptions, seen func(obj runtime.Object, gone bool), done func() bool) error {
	list, err := from.List(ctx, opts)
	if err != nil {
		return err
	}
	err = meta.EachListItem(list, func(obj runtime.Object) error { seen(obj, false); return nil })
	if err != nil || done() {
		return err
	}
	accessor, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	opts.ResourceVersion = accessor.GetResourceVersion()
	w, err := from.Watch(ctx, opts)
	if err != nil {
		return err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			return apierrors.FromObject(event.Object)
		}
		if seen(event.Object, event.Type == watch.Deleted); done() {
			return nil
		}
	}
	return errors.Join(errors.New("the watch has ended"), context.Cause(ctx))
}

// apiAddress is where the API server listens, in the node.
func apiAddress(cfg *rest.Config) string { return strings.TrimPrefix(cfg.Host, "https://") }
