package standin

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"
)

// ref is one object that a pod needs to start.
type ref struct{ resource, namespace, name string }

func (r ref) key() string { return journalKey(r.resource, r.namespace, r.name) }

// volumeKey is where the volume of a claim is recorded: under the claim's name,
// so that both go together.
func (r ref) volumeKey() string { return journalKey(volumes, r.namespace, r.name) }

// refsOf lists what a pod refers to. An API server lets a node read exactly
// these Secrets, ConfigMaps and claims. A pod that has ended needs none.
func refsOf(pod *corev1.Pod) []ref {
	if ended(pod) {
		return nil
	}
	var refs []ref
	add := func(resource, name string) bool {
		if name != "" {
			refs = append(refs, ref{resource, pod.Namespace, name})
		}
		return true
	}
	podutil.VisitPodSecretNames(pod, func(name string) bool { return add(secrets, name) })
	podutil.VisitPodConfigmapNames(pod, func(name string) bool { return add(configMaps, name) })
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			add(claims, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			add(claims, ephemeral.VolumeClaimName(pod, v))
		}
	}
	slices.SortFunc(refs, func(a, b ref) int { return strings.Compare(a.key(), b.key()) })
	return slices.Compact(refs)
}
