package deploy

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// ref names one object. Its namespace is empty for cluster-wide kinds, and for
// objects whose file gives none.
type ref struct {
	schema.GroupVersionKind
	Namespace, Name string
}

// key is what makes two refs the same object: the version does not matter, and
// no namespace means "default" (for a cluster-wide kind that is only a fixed
// value, since the kind decides).
type key struct {
	schema.GroupKind
	namespace, name string
}

func refOf(obj *unstructured.Unstructured) ref {
	return ref{GroupVersionKind: obj.GroupVersionKind(), Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

func (r ref) key() key {
	k := key{GroupKind: r.GroupKind(), namespace: r.Namespace, name: r.Name}
	if k.namespace == "" {
		k.namespace = metav1.NamespaceDefault
	}
	return k
}

// String is how messages name the object: "Deployment web/shop".
func (r ref) String() string { return r.Kind + " " + r.path() }

func (r ref) path() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}

// encode is the line for this object in a record: "apps/v1 Deployment web/shop".
// Names cannot hold slashes or line ends, only the last part can hold spaces.
func (r ref) encode() string { return r.GroupVersion().String() + " " + r.Kind + " " + r.path() }

// decodeRef reads a line that encode wrote.
func decodeRef(line string) (ref, error) {
	parts := strings.SplitN(line, " ", 3)
	if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
		return ref{}, fmt.Errorf("%q is not of the form: apiVersion kind [namespace/]name", line)
	}
	gv, err := schema.ParseGroupVersion(parts[0])
	if err != nil {
		return ref{}, err
	}
	r := ref{GroupVersionKind: gv.WithKind(parts[1]), Name: parts[2]}
	if namespace, name, ok := strings.Cut(parts[2], "/"); ok {
		r.Namespace, r.Name = namespace, name
	}
	if r.Name == "" || strings.Contains(r.Name, "/") {
		return ref{}, fmt.Errorf("%q: %q names no object", line, parts[2])
	}
	return r, nil
}

// isImmortal tells of namespaces that the apiserver never lets go.
func (r ref) isImmortal() bool {
	if r.Kind != "Namespace" || r.Group != "" {
		return false
	}
	switch r.Name {
	case metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, "kube-node-lease":
		return true
	}
	return false
}
