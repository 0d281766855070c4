package standin

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A pod that has got another address after the reboot is behind its Service at
// the new one, and not before it is ready. One that went on running while the agent
// was away stays where it was.
func TestEndpointsFollowPods(t *testing.T) {
	t.Parallel()
	t.Run("rebooted", func(t *testing.T) {
		t.Parallel()
		endpointsFollowPods(t, true, "!10.42.1.7", "!10.42.1.3")
	})
	t.Run("restarted", func(t *testing.T) {
		t.Parallel()
		endpointsFollowPods(t, false, "10.42.1.7", "10.42.1.3")
	})
}

func endpointsFollowPods(t *testing.T, rebooted bool, atFirst, starting string) {
	here, there := testNode, "box2"
	target := func(name string) *corev1.ObjectReference {
		return &corev1.ObjectReference{Kind: "Pod", Name: name, UID: types.UID("uid-" + name)}
	}
	f := newFixture(t, testPod("web"), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop"}},
		&discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: "web-1", Namespace: "shop", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints: []discoveryv1.Endpoint{
				{Addresses: []string{"10.42.1.7"}, NodeName: &here, TargetRef: target("web")},
				{Addresses: []string{"10.42.1.8"}, NodeName: &here, TargetRef: target("deleted")},
				{Addresses: []string{"10.42.2.7"}, NodeName: &there, TargetRef: target("elsewhere")},
				{Addresses: []string{"192.0.2.7"}, NodeName: &here},
			},
		})
	f.server.opts.Rebooted = rebooted // nobody has connected yet
	c, ctx := f.kubelet(), t.Context()
	look := func() string {
		slice, err := f.proxy().DiscoveryV1().EndpointSlices("shop").Get(ctx, "web-1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var s []string
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				s = append(s, e.Addresses[0])
			} else {
				s = append(s, "!"+e.Addresses[0])
			}
		}
		return joined(s)
	}
	report := func(ip, ready string) {
		patch := []byte(`{"status":{"podIPs":[{"ip":"` + ip + `"}],"conditions":[{"type":"Ready","status":"` + ready + `"}]}}`)
		if _, err := c.CoreV1().Pods("shop").Patch(ctx, "web", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	if got := look(); got != atFirst+" 10.42.2.7 192.0.2.7" {
		t.Errorf("after the boot: %s", got)
	}
	report("10.42.1.3", "False")
	if got := look(); got != starting+" 10.42.2.7 192.0.2.7" {
		t.Errorf("while it starts: %s", got)
	}
	report("10.42.1.3", "True")
	if got := look(); got != "10.42.1.3 10.42.2.7 192.0.2.7" {
		t.Errorf("when it is ready: %s", got)
	}
	report("10.42.1.3", "False")
	if got := look(); got != "!10.42.1.3 10.42.2.7 192.0.2.7" {
		t.Errorf("when it is not ready any more: %s", got)
	}
	if err := c.CoreV1().Pods("shop").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := look(); got != "10.42.2.7 192.0.2.7" {
		t.Errorf("when it is gone: %s", got)
	}
}
