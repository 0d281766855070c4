package standin

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// storage offers a table to upstream's request handlers.
type storage struct {
	table *table
	// status is set for the subresource, by which the spec cannot be changed.
	status bool
}

var (
	_ rest.Patcher         = (*storage)(nil)
	_ rest.Creater         = (*storage)(nil) //nolint:misspell // upstream's name
	_ rest.Lister          = (*storage)(nil)
	_ rest.Watcher         = (*storage)(nil)
	_ rest.GracefulDeleter = (*storage)(nil)
)

// New implements rest.Storage.
func (s *storage) New() runtime.Object { return s.table.kind.newObject() }

// NewList implements rest.Lister.
func (s *storage) NewList() runtime.Object { return s.table.kind.newList() }

// Destroy implements rest.Storage.
func (s *storage) Destroy() {}

// ConvertToTable implements rest.Lister; tables are for people, who have kubectl and a server.
func (s *storage) ConvertToTable(context.Context, runtime.Object, runtime.Object) (*metav1.Table, error) {
	return nil, apierrors.NewMethodNotSupported(s.table.kind.gvr.GroupResource(), "print as a table")
}

// Get implements rest.Getter.
func (s *storage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	return s.table.get(request.NamespaceValue(ctx), name)
}

// List implements rest.Lister. Everything comes in one piece: a node's share is small.
func (s *storage) List(ctx context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	objects, revision := s.table.list(selectionOf(ctx, o))
	list := s.NewList()
	if err := meta.SetList(list, objects); err != nil {
		return nil, err
	}
	m, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	m.SetResourceVersion(revision)
	return list, nil
}

// Watch implements rest.Watcher.
func (s *storage) Watch(ctx context.Context, o *internalversion.ListOptions) (watch.Interface, error) {
	return s.table.watch(watchOptions{
		selection: selectionOf(ctx, o), revision: o.ResourceVersion,
		initial: o.SendInitialEvents != nil && *o.SendInitialEvents, bookmark: o.AllowWatchBookmarks,
	})
}

func selectionOf(ctx context.Context, o *internalversion.ListOptions) selection {
	return selection{namespace: request.NamespaceValue(ctx), labels: o.LabelSelector, fields: o.FieldSelector}
}

// Create serves POST. Events are taken and dropped.
func (s *storage) Create(ctx context.Context, obj runtime.Object, _ rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if s.table.kind.namespaced {
		m.SetNamespace(request.NamespaceValue(ctx))
	}
	if m.GetName() == "" {
		return nil, apierrors.NewBadRequest("the object has no name")
	}
	if pod, ok := obj.(*corev1.Pod); ok && pod.Annotations[corev1.MirrorPodAnnotationKey] == "" {
		return nil, apierrors.NewForbidden(s.table.kind.gvr.GroupResource(), m.GetName(), errOnlyMirrors)
	}
	m.SetUID(uuid.NewUUID())
	m.SetCreationTimestamp(metav1.NewTime(time.Now().Truncate(time.Second)))
	if s.table.kind.gvr.Resource == events {
		return obj, nil
	}
	return s.table.create(obj)
}

var errOnlyMirrors = fmt.Errorf("while no server is reached, a node may create mirrors of its static pods only")

// Update implements rest.Updater, for updates and patches.
func (s *storage) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, _ rest.ValidateObjectFunc,
	_ rest.ValidateObjectUpdateFunc, _ bool, _ *metav1.UpdateOptions) (runtime.Object, bool, error) {
	obj, err := s.table.update(request.NamespaceValue(ctx), name, func(old runtime.Object) (runtime.Object, error) {
		if err := checkUID(s.table.kind, old, info.Preconditions()); err != nil {
			return nil, err
		}
		obj, err := info.UpdatedObject(ctx, old.DeepCopyObject())
		if err != nil {
			return nil, err
		}
		return obj, s.confine(obj, old)
	})
	return obj, false, err
}

// confine undoes what this way of updating does not change, as the API server does.
func (s *storage) confine(obj, old runtime.Object) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	was, err := meta.Accessor(old)
	if err != nil {
		return err
	}
	m.SetUID(was.GetUID())
	m.SetCreationTimestamp(was.GetCreationTimestamp())
	m.SetDeletionTimestamp(was.GetDeletionTimestamp())
	switch obj := obj.(type) {
	case *corev1.Pod:
		before := old.(*corev1.Pod) // of the same table
		if s.status {
			obj.Spec = before.Spec
		} else {
			obj.Status = before.Status
		}
	case *corev1.Node:
		before := old.(*corev1.Node)
		if s.status {
			obj.Spec = before.Spec
		} else {
			obj.Status = before.Status
		}
	}
	return nil
}

// Delete implements rest.GracefulDeleter. There is no grace: the only one who
// deletes is the kubelet, when the pod has ended.
func (s *storage) Delete(ctx context.Context, name string, _ rest.ValidateObjectFunc, o *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := s.table.remove(request.NamespaceValue(ctx), name, func(old runtime.Object) error {
		return checkUID(s.table.kind, old, o.Preconditions)
	})
	return obj, err == nil, err
}

func checkUID(k kind, obj runtime.Object, p *metav1.Preconditions) error {
	m, err := meta.Accessor(obj)
	if err != nil || p == nil || p.UID == nil || *p.UID == m.GetUID() {
		return err
	}
	return apierrors.NewConflict(k.gvr.GroupResource(), m.GetName(),
		fmt.Errorf("its UID is %s, the request is about %s", m.GetUID(), *p.UID))
}

// patchTypes are those that a node's components send.
func patchTypes() []string {
	return []string{string(types.StrategicMergePatchType), string(types.MergePatchType), string(types.JSONPatchType)}
}

// convertor lets fields be selected by that client-go's scheme knows nothing of.
type convertor struct {
	runtime.ObjectConvertor
	kind kind
}

func (c convertor) ConvertFieldLabel(_ schemaGVK, label, value string) (string, string, error) {
	if !c.kind.fieldLabel(label) {
		return "", "", fmt.Errorf("%s cannot be selected by the field %q", strings.ToLower(c.kind.kind), label)
	}
	return label, value, nil
}
