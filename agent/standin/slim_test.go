package standin

import (
	"bytes"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func busyPod() *corev1.Pod {
	p := testPod("web")
	start := metav1.NewTime(time.Unix(1_700_000_000, 0))
	p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "lb.example/ready"}}
	p.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &start, PodIP: "10.42.1.7",
		Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue},
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
			{Type: "lb.example/ready", Status: corev1.ConditionTrue},
		},
		ContainerStatuses: []corev1.ContainerStatus{{Name: "main", RestartCount: 3, Ready: true}},
	}
	return p
}

// What is written to flash and what is not.
func TestWhatIsAChange(t *testing.T) {
	t.Parallel()
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "web-1", Namespace: "shop", Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: "1"}},
		Endpoints:  []discoveryv1.Endpoint{{Addresses: []string{"10.42.1.7"}}},
	}
	other := boxNode()
	other.Name = "box2"
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}}
	tests := []struct {
		name   string
		obj    runtime.Object
		change func(runtime.Object)
		want   bool
	}{
		{"a container restarts", busyPod(), func(o runtime.Object) { o.(*corev1.Pod).Status.ContainerStatuses[0].RestartCount++ }, false},
		{"the pod becomes unready", busyPod(), func(o runtime.Object) { o.(*corev1.Pod).Status.Conditions[0].Status = corev1.ConditionFalse }, false},
		{"the pod gets another address", busyPod(), func(o runtime.Object) { o.(*corev1.Pod).Status.PodIP = "10.42.1.8" }, false},
		{"the pod is pending again", busyPod(), func(o runtime.Object) { o.(*corev1.Pod).Status.Phase = corev1.PodPending }, false},
		{"a new revision of the pod", busyPod(), func(o runtime.Object) { o.(*corev1.Pod).ResourceVersion = "78" }, false},
		{"a readiness gate opens", busyPod(), func(o runtime.Object) { o.(*corev1.Pod).Status.Conditions[2].Status = corev1.ConditionFalse }, true},
		{"the pod has ended", busyPod(), func(o runtime.Object) { o.(*corev1.Pod).Status.Phase = corev1.PodSucceeded }, true},
		{"the pod is being deleted", busyPod(), func(o runtime.Object) { o.(*corev1.Pod).DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }, true},
		{"another image", busyPod(), func(o runtime.Object) { o.(*corev1.Pod).Spec.Containers[0].Image = "busybox:2" }, true},
		{"another label", busyPod(), func(o runtime.Object) { o.(*corev1.Pod).Labels["a"] = "b" }, true},
		{"a heartbeat", boxNode(), func(o runtime.Object) {
			o.(*corev1.Node).Status.Conditions[0].LastHeartbeatTime = metav1.Now()
			o.(*corev1.Node).Status.Images = []corev1.ContainerImage{{Names: []string{"a"}}}
		}, false},
		{"the node is unreachable", boxNode(), func(o runtime.Object) {
			o.(*corev1.Node).Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}}
		}, false},
		{"a taint of the administrator", boxNode(), func(o runtime.Object) {
			o.(*corev1.Node).Spec.Taints = []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}
		}, true},
		{"the node gets another address", boxNode(), func(o runtime.Object) { o.(*corev1.Node).Status.Addresses[0].Address = "192.0.2.8" }, true},
		{"the label of another node", other, func(o runtime.Object) { o.(*corev1.Node).Labels["zone"] = "cellar" }, false},
		{"the overlay of another node", other, func(o runtime.Object) {
			o.(*corev1.Node).Annotations = map[string]string{"flannel.alpha.coreos.com/public-ip": "192.0.2.9"}
		}, true},
		{"an endpoint's bookkeeping", slice, func(o runtime.Object) {
			m := o.(*discoveryv1.EndpointSlice)
			m.Annotations[corev1.EndpointsLastChangeTriggerTime], m.ResourceVersion, m.Generation = "2", "9", 4
		}, false},
		{"an endpoint goes", slice, func(o runtime.Object) { o.(*discoveryv1.EndpointSlice).Endpoints = nil }, true},
		{"managed fields", service, func(o runtime.Object) {
			o.(*corev1.Service).ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
		}, false},
		{"another port", service, func(o runtime.Object) { o.(*corev1.Service).Spec.Ports[0].Port = 81 }, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			changed := tt.obj.DeepCopyObject()
			tt.change(changed)
			was, is := encoded(t, tt.obj), encoded(t, changed)
			if got := !bytes.Equal(was, is); got != tt.want {
				t.Errorf("written: %v, want %v", got, tt.want)
			}
		})
	}
}

func encoded(t *testing.T, obj runtime.Object) []byte {
	t.Helper()
	before := obj.DeepCopyObject()
	data, err := encode(slim(obj, testNode))
	if err != nil {
		t.Fatal(err)
	}
	again, err := encode(slim(before, testNode))
	if err != nil || !bytes.Equal(data, again) {
		t.Errorf("slim changes its argument, or encodes differently the second time: %v", err)
	}
	return data
}

// A pod that comes out of the record is the pod that went in, as far as the
// kubelet compares it with running containers.
func TestPodSurvivesTheRecord(t *testing.T) {
	t.Parallel()
	p := busyPod()
	_, obj, err := decode(recordedKinds(), "pods/shop/web", encoded(t, p))
	if err != nil {
		t.Fatal(err)
	}
	got := obj.(*corev1.Pod)
	if got.UID != p.UID || got.Status.StartTime == nil || !got.Status.StartTime.Equal(p.Status.StartTime) || got.Status.Phase != corev1.PodPending || len(got.Status.Conditions) != 2 {
		t.Errorf("the pod came back as %+v", got)
	}
	want, _ := p.Spec.Marshal()
	if spec, _ := got.Spec.Marshal(); !bytes.Equal(spec, want) {
		t.Error("the pod came back with another spec")
	}
}

func TestRefsOf(t *testing.T) {
	t.Parallel()
	p := testPod("web")
	p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}}}}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "a", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}},
		{Name: "b", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		{Name: "c", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
		{Name: "d", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "key"}}},
		}}}},
	}
	var got []string
	for _, r := range refsOf(p) {
		got = append(got, r.key())
	}
	want := "configmaps/shop/env configmaps/shop/kube-root-ca.crt persistentvolumeclaims/shop/data persistentvolumeclaims/shop/web-c secrets/shop/key secrets/shop/pull"
	if s := joined(got); s != want {
		t.Errorf("refs are %s\nwant %s", s, want)
	}
	p.Status.Phase = corev1.PodFailed
	if refs := refsOf(p); len(refs) != 0 {
		t.Errorf("a pod that has ended needs %v", refs)
	}
}
