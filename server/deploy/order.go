package deploy

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// class is a stage of an apply: everything in a lower class is applied before
// anything in a higher one, and deleted after it. Within a class order is free.
type class int

const (
	classNamespace class = iota
	classDefinition
	classAccess   // who may do what, and the classes that pods and volumes name
	classData     // what pods mount
	classService  // before pods, which get the addresses in their environment
	classWorkload // everything else
	classHook     // calls into workloads: must not stand in the way of applying them
	classCount
)

// classOf follows the order in which kubectl and helm users expect things.
func classOf(gk schema.GroupKind) class {
	switch gk.Group {
	case "rbac.authorization.k8s.io", "scheduling.k8s.io", "node.k8s.io":
		return classAccess
	case "admissionregistration.k8s.io", "apiregistration.k8s.io":
		return classHook
	}
	switch gk {
	case schema.GroupKind{Kind: "Namespace"}:
		return classNamespace
	case schema.GroupKind{Group: definitionGroup, Kind: definitionKind}:
		return classDefinition
	case schema.GroupKind{Kind: "ServiceAccount"},
		schema.GroupKind{Kind: "ResourceQuota"},
		schema.GroupKind{Kind: "LimitRange"},
		schema.GroupKind{Group: "storage.k8s.io", Kind: "StorageClass"},
		schema.GroupKind{Group: "networking.k8s.io", Kind: "IngressClass"},
		schema.GroupKind{Group: "networking.k8s.io", Kind: "NetworkPolicy"}:
		return classAccess
	case schema.GroupKind{Kind: "ConfigMap"},
		schema.GroupKind{Kind: "Secret"},
		schema.GroupKind{Kind: "PersistentVolume"},
		schema.GroupKind{Kind: "PersistentVolumeClaim"}:
		return classData
	case schema.GroupKind{Kind: "Service"}:
		return classService
	}
	return classWorkload
}

// byClass sorts objects into their classes; the order of the file is kept
// within each.
func byClass(objects []*unstructured.Unstructured) [classCount][]*unstructured.Unstructured {
	var out [classCount][]*unstructured.Unstructured
	for _, obj := range objects {
		c := classOf(obj.GroupVersionKind().GroupKind())
		out[c] = append(out[c], obj)
	}
	return out
}

// refsByClass is byClass for refs.
func refsByClass(refs []ref) [classCount][]ref {
	var out [classCount][]ref
	for _, r := range refs {
		c := classOf(r.GroupKind())
		out[c] = append(out[c], r)
	}
	return out
}

// sortRefs puts refs into a stable order, so that equal lists are equal text.
func sortRefs(refs []ref) []ref {
	slices.SortFunc(refs, func(a, b ref) int {
		if d := classOf(a.GroupKind()) - classOf(b.GroupKind()); d != 0 {
			return int(d)
		}
		switch x, y := a.encode(), b.encode(); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return refs
}
