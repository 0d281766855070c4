package standin

import (
	"slices"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// table holds the objects of one resource in memory and tells watchers of changes.
// Objects in it are never changed, only replaced; they are copied on the way out.
//
// Revisions count from 1 in each table. That they are small matters: a client
// goes on at the real server with the last revision that it saw here. For that
// server it is one of long ago: it answers "expired", and the client lists
// anew, or tells of every change since, which ends in the same state. A
// revision that is still to come there would be waited for in silence.
type table struct {
	kind kind
	// changed, if set, is called after every change, without mu.
	changed func()

	mu       sync.Mutex
	objects  map[string]runtime.Object // by namespace/name
	revision uint64
	watchers map[*watcher]struct{}
	ended    bool
}

func newTable(k kind) *table {
	return &table{kind: k, objects: map[string]runtime.Object{}, revision: 1, watchers: map[*watcher]struct{}{}}
}

func tableKey(namespace, name string) string { return namespace + "/" + name }

// selection is what a list or watch is confined to.
type selection struct {
	namespace string
	labels    labels.Selector
	fields    fields.Selector
}

func (s selection) matches(obj runtime.Object) bool {
	m, err := meta.Accessor(obj)
	if err != nil || s.namespace != "" && m.GetNamespace() != s.namespace {
		return false
	}
	if s.labels != nil && !s.labels.Matches(labels.Set(m.GetLabels())) {
		return false
	}
	return s.fields == nil || s.fields.Empty() || s.fields.Matches(fieldsOf(obj, m))
}

// fieldsOf are the fields that can be selected by; fieldLabel names them.
func fieldsOf(obj runtime.Object, m metav1.Object) fields.Set {
	set := fields.Set{"metadata.name": m.GetName(), "metadata.namespace": m.GetNamespace()}
	switch obj := obj.(type) {
	case *corev1.Pod:
		set["spec.nodeName"] = obj.Spec.NodeName
		set["status.phase"] = string(obj.Status.Phase)
	case *corev1.Service:
		set["spec.clusterIP"] = obj.Spec.ClusterIP
		set["spec.type"] = string(obj.Spec.Type)
	case *corev1.Secret:
		set["type"] = string(obj.Type)
	}
	return set
}

// fieldLabel reports whether objects of the kind can be selected by a field.
func (k kind) fieldLabel(label string) bool {
	switch label {
	case "metadata.name":
		return true
	case "metadata.namespace":
		return k.namespaced
	case "spec.nodeName":
		return k.gvr.Resource == pods || k.gvr.Resource == podCertificates
	case "status.phase":
		return k.gvr.Resource == pods
	case "spec.clusterIP", "spec.type":
		return k.gvr.Resource == services
	case "type":
		return k.gvr.Resource == secrets
	}
	return false
}

func (t *table) get(namespace, name string) (runtime.Object, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	obj, ok := t.objects[tableKey(namespace, name)]
	if !ok {
		return nil, apierrors.NewNotFound(t.kind.gvr.GroupResource(), name)
	}
	return obj.DeepCopyObject(), nil
}

// list returns the selected objects in the order of their names, and the revision.
func (t *table) list(s selection) ([]runtime.Object, string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.selected(s), t.currentRevision()
}

func (t *table) selected(s selection) []runtime.Object {
	var keys []string
	for key, obj := range t.objects {
		if s.matches(obj) {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, strings.Compare)
	out := make([]runtime.Object, len(keys))
	for i, key := range keys {
		out[i] = t.objects[key].DeepCopyObject()
	}
	return out
}

func (t *table) currentRevision() string { return strconv.FormatUint(t.revision, 10) }

// load puts in an object from the record, before anybody watches.
func (t *table) load(obj runtime.Object) error {
	m, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	m.SetResourceVersion(t.currentRevision())
	t.objects[tableKey(m.GetNamespace(), m.GetName())] = obj
	return nil
}

// create stores a new object; the table takes it over.
func (t *table) create(obj runtime.Object) (runtime.Object, error) {
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	defer t.notify()
	t.mu.Lock()
	defer t.mu.Unlock()
	key := tableKey(m.GetNamespace(), m.GetName())
	if _, ok := t.objects[key]; ok {
		return nil, apierrors.NewAlreadyExists(t.kind.gvr.GroupResource(), m.GetName())
	}
	t.store(key, nil, obj)
	return obj.DeepCopyObject(), nil
}

// update replaces an object by what change makes of it. A result that carries
// another revision than the stored one is a conflict, one that is equal to it
// is no change.
func (t *table) update(namespace, name string, change func(old runtime.Object) (runtime.Object, error)) (runtime.Object, error) {
	defer t.notify()
	t.mu.Lock()
	defer t.mu.Unlock()
	key := tableKey(namespace, name)
	old, ok := t.objects[key]
	if !ok {
		return nil, apierrors.NewNotFound(t.kind.gvr.GroupResource(), name)
	}
	obj, err := change(old.DeepCopyObject())
	if err != nil {
		return nil, err
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, err
	}
	was, err := meta.Accessor(old)
	if err != nil {
		return nil, err
	}
	if rv := m.GetResourceVersion(); rv != "" && rv != was.GetResourceVersion() {
		return nil, apierrors.NewConflict(t.kind.gvr.GroupResource(), name, errChanged)
	}
	m.SetResourceVersion(was.GetResourceVersion())
	if !equality.Semantic.DeepEqual(old, obj) {
		t.store(key, old, obj)
	}
	return obj.DeepCopyObject(), nil
}

// notify comes after mu was released.
func (t *table) notify() {
	if t.changed != nil {
		t.changed()
	}
}

// remove deletes an object if check, which may be nil, lets it.
func (t *table) remove(namespace, name string, check func(runtime.Object) error) (runtime.Object, error) {
	defer t.notify()
	t.mu.Lock()
	defer t.mu.Unlock()
	key := tableKey(namespace, name)
	old, ok := t.objects[key]
	if !ok {
		return nil, apierrors.NewNotFound(t.kind.gvr.GroupResource(), name)
	}
	if check != nil {
		if err := check(old); err != nil {
			return nil, err
		}
	}
	last := old.DeepCopyObject()
	t.revision++
	if m, err := meta.Accessor(last); err == nil {
		m.SetResourceVersion(t.currentRevision())
	}
	delete(t.objects, key)
	t.tell(old, nil, last)
	return last.DeepCopyObject(), nil
}

// store makes obj the current object under key; mu is held.
func (t *table) store(key string, old, obj runtime.Object) {
	t.revision++
	if m, err := meta.Accessor(obj); err == nil {
		m.SetResourceVersion(t.currentRevision())
	}
	t.objects[key] = obj
	t.tell(old, obj, obj)
}

// tell sends each watcher its event; show is the object in its new revision. mu is held.
func (t *table) tell(old, obj, show runtime.Object) {
	for w := range t.watchers {
		was := old != nil && w.selection.matches(old)
		is := obj != nil && w.selection.matches(obj)
		switch {
		case is && was:
			w.send(watch.Modified, show)
		case is:
			w.send(watch.Added, show)
		case was:
			w.send(watch.Deleted, show)
		}
	}
}
