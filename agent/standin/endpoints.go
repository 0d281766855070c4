package standin

import (
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// follower does what the server's controller does for the endpoints on this
// node: after a reboot its pods have other addresses than those recorded.
type follower struct {
	node   string
	tables map[string]*table
	// rebooted: no pod runs until the kubelet says so. Otherwise they all went
	// on running while the agent was away, and what is recorded holds until
	// the kubelet, whose probes begin anew, has called the pod ready once.
	rebooted bool

	mu    sync.Mutex
	ready map[types.UID]bool // pods that have been ready since
}

// follow makes all endpoints on the node what its pods are now.
func (f *follower) follow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	everything, _ := f.tables[endpointSlices].list(selection{})
	for _, obj := range everything {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			continue
		}
		publish := false
		if svc, err := f.tables[services].get(slice.Namespace, slice.Labels[discoveryv1.LabelServiceName]); err == nil {
			publish = svc.(*corev1.Service).Spec.PublishNotReadyAddresses // of that table
		}
		// Gone or equal is no change; nobody else writes here.
		_, _ = f.tables[endpointSlices].update(slice.Namespace, slice.Name, func(old runtime.Object) (runtime.Object, error) {
			return f.adapt(old.(*discoveryv1.EndpointSlice), publish), nil
		})
	}
}

// adapt returns the slice as it should be. Endpoints on other nodes stay as recorded.
func (f *follower) adapt(slice *discoveryv1.EndpointSlice, publishNotReady bool) *discoveryv1.EndpointSlice {
	out := slice.DeepCopy()
	out.Endpoints = nil
	for _, e := range slice.DeepCopy().Endpoints {
		if e.NodeName == nil || *e.NodeName != f.node || e.TargetRef == nil || e.TargetRef.Kind != "Pod" {
			out.Endpoints = append(out.Endpoints, e)
			continue
		}
		obj, err := f.tables[pods].get(slice.Namespace, e.TargetRef.Name)
		pod, ok := obj.(*corev1.Pod)
		if err != nil || !ok || pod.UID != e.TargetRef.UID || ended(pod) {
			continue
		}
		f.update(&e, pod, slice.AddressType, publishNotReady)
		out.Endpoints = append(out.Endpoints, e)
	}
	return out
}

// update makes an endpoint what its pod is.
func (f *follower) update(e *discoveryv1.Endpoint, pod *corev1.Pod, family discoveryv1.AddressType, publishNotReady bool) {
	addr, podReady := podAddress(pod, family), podIsReady(pod)
	if addr != "" {
		e.Addresses = []string{addr}
	}
	if podReady {
		f.ready[pod.UID] = true
	}
	if !f.rebooted && !f.ready[pod.UID] {
		return
	}
	deleting := pod.DeletionTimestamp != nil
	serving := addr != "" && (podReady || publishNotReady)
	ready := serving && (!deleting || publishNotReady)
	e.Conditions = discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &deleting}
}

// podAddress is the pod's address of a family, empty as long as it has none.
func podAddress(pod *corev1.Pod, family discoveryv1.AddressType) string {
	for _, ip := range pod.Status.PodIPs {
		addr, err := netip.ParseAddr(ip.IP)
		if err == nil && (family == discoveryv1.AddressTypeIPv4 && addr.Is4() || family == discoveryv1.AddressTypeIPv6 && addr.Is6()) {
			return ip.IP
		}
	}
	return ""
}

func podIsReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
