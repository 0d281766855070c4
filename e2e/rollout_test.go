package e2e

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestRollingUpdate goes from version 1 to 2 and back while clients call the
// Service; not one request may fail.
func TestRollingUpdate(t *testing.T) {
	s := sharedSpace(t, 4*time.Minute)
	spec := httpdSpec()
	// A pod that ends serves on until every proxy has heard of it.
	spec.Containers[0].Env = append(spec.Containers[0].Env, corev1.EnvVar{Name: "SHUTDOWN_DELAY", Value: "4s"})
	d := deployment("web", 3, spec)
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: ptr(intstr.FromInt32(0)), MaxSurge: ptr(intstr.FromInt32(1))}}
	svc := s.createService(service("web"))
	s.deploy(d)
	here, url := s.node(t, node1), "http://"+svc.Spec.ClusterIP+"/version"
	if got := here.mustFetch(s.ctx, t, svc.Spec.ClusterIP, "/version"); got != "1" {
		t.Fatalf("version %q before the update, want 1", got)
	}
	deployments := s.client.AppsV1().Deployments(s.name)

	load := here.sendTraffic(s.ctx, url)
	s.kubectl("set", "image", "deployment/web", "main="+imageHTTPD2)
	await(s.ctx, t, deployments, "web", rolledOut)
	settled(s, here, svc, "2")
	load.mustBeUnharmed(t, "update to version 2")
	if load.answers["1"] == 0 || load.answers["2"] == 0 {
		t.Errorf("the clients saw %v, want both versions", load.answers)
	}

	load = here.sendTraffic(s.ctx, url)
	s.kubectl("rollout", "undo", "deployment/web")
	await(s.ctx, t, deployments, "web", rolledOut)
	settled(s, here, svc, "1")
	load.mustBeUnharmed(t, "back to version 1")
}

// settled waits until ten answers in a row are of the version.
func settled(s *space, from place, svc *corev1.Service, version string) {
	s.t.Helper()
	for same := 0; same < 10; same++ {
		if got := from.mustFetch(s.ctx, s.t, svc.Spec.ClusterIP, "/version"); got != version {
			same = -1
			select {
			case <-s.ctx.Done():
				s.t.Fatalf("still version %q: %v", got, s.ctx.Err())
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}
