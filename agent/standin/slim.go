package standin

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/limpetio/limpet/internal/nodeupgrade"
)

// slim returns a copy of what a restart of node needs of an object. Whatever
// changes often and is found out again anyway is left out: a change of the
// result is a write to flash.
func slim(obj runtime.Object, node string) runtime.Object {
	switch obj := obj.(type) {
	case *corev1.Pod:
		return slimPod(obj)
	case *corev1.Node:
		return slimNode(obj, node)
	case *corev1.Namespace:
		return &corev1.Namespace{
			ObjectMeta: metav1.ObjectMeta{Name: obj.Name, UID: obj.UID, Labels: obj.Labels, DeletionTimestamp: obj.DeletionTimestamp},
			Status:     corev1.NamespaceStatus{Phase: obj.Status.Phase},
		}
	case *discoveryv1.EndpointSlice:
		out := obj.DeepCopy()
		slimMeta(&out.ObjectMeta, corev1.EndpointsLastChangeTriggerTime)
		return out
	}
	out := obj.DeepCopyObject()
	if m, err := meta.Accessor(out); err == nil {
		m.SetManagedFields(nil)
		m.SetResourceVersion("")
		m.SetGeneration(0)
	}
	return out
}

// slimMeta drops bookkeeping, and the named annotations.
func slimMeta(m *metav1.ObjectMeta, annotations ...string) {
	m.ManagedFields, m.ResourceVersion, m.Generation = nil, "", 0
	for _, a := range annotations {
		delete(m.Annotations, a) // the caller's copy
	}
	if len(m.Annotations) == 0 {
		m.Annotations = nil
	}
}

// slimPod keeps the pod as it is to run, and of its status what no look at the
// containers tells: that it has ended, when it started (its deadline counts from
// there), which claims were made for it, and what others have said about it.
func slimPod(pod *corev1.Pod) *corev1.Pod {
	out := &corev1.Pod{ObjectMeta: *pod.ObjectMeta.DeepCopy(), Spec: *pod.Spec.DeepCopy()}
	generation := out.Generation // the kubelet reports which generation it has seen
	slimMeta(&out.ObjectMeta)
	out.Generation = generation
	out.Status = corev1.PodStatus{
		Phase: pod.Status.Phase, Reason: pod.Status.Reason, Message: pod.Status.Message,
		StartTime: pod.Status.StartTime.DeepCopy(), QOSClass: pod.Status.QOSClass,
		ResourceClaimStatuses: pod.DeepCopy().Status.ResourceClaimStatuses,
	}
	if !ended(pod) {
		// Running or Pending is for the containers to tell.
		out.Status.Phase, out.Status.Reason, out.Status.Message = corev1.PodPending, "", ""
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled || isGate(pod, c.Type) {
			c.LastProbeTime = metav1.Time{}
			out.Status.Conditions = append(out.Status.Conditions, c)
		}
	}
	return out
}

// ended reports whether a pod will not run again, and must not.
func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func isGate(pod *corev1.Pod, condition corev1.PodConditionType) bool {
	return slices.ContainsFunc(pod.Spec.ReadinessGates, func(g corev1.PodReadinessGate) bool { return g.ConditionType == condition })
}

// slimNode keeps what the network, DNS and kube-proxy read. Of the own Node it
// keeps labels, taints, capacity and features too: the kubelet admits pods by
// them, and may do so before it has reported the first time.
func slimNode(n *corev1.Node, own string) *corev1.Node {
	out := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, CreationTimestamp: n.CreationTimestamp},
		Spec:       corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: slices.Clone(n.Spec.PodCIDRs)},
		Status:     corev1.NodeStatus{Addresses: slices.Clone(n.Status.Addresses)},
	}
	if n.Name != own {
		out.Annotations = map[string]string{}
		for k, v := range n.Annotations {
			if strings.HasPrefix(k, "flannel.alpha.coreos.com/") || strings.HasPrefix(k, "limpet.io/") {
				out.Annotations[k] = v
			}
		}
		if len(out.Annotations) == 0 {
			out.Annotations = nil
		}
		return out
	}
	whole := n.DeepCopy()
	out.Labels, out.Annotations = whole.Labels, whole.Annotations
	// What a server asks for is for a server to say, and the answer changes often.
	delete(out.Annotations, nodeupgrade.RequestAnnotation)
	delete(out.Annotations, nodeupgrade.ReportAnnotation)
	out.Spec = whole.Spec
	// An unreachable or unready Node is not news that outlives a reboot: whether
	// it is, the kubelet and the server find out anew.
	out.Spec.Taints = slices.DeleteFunc(out.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable || t.TimeAdded != nil && strings.HasPrefix(t.Key, "node.kubernetes.io/")
	})
	if len(out.Spec.Taints) == 0 {
		out.Spec.Taints = nil
	}
	out.Status.Capacity, out.Status.Allocatable = whole.Status.Capacity, whole.Status.Allocatable
	out.Status.NodeInfo, out.Status.DeclaredFeatures = whole.Status.NodeInfo, whole.Status.DeclaredFeatures
	out.Status.NodeInfo.BootID = "" // of the boot that is over
	out.Status.RuntimeHandlers, out.Status.Features = whole.Status.RuntimeHandlers, whole.Status.Features
	return out
}
