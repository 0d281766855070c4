package main

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
)

// The test images (scripts/images); the node has them before limpet starts.
const (
	busyboxArchive = "busybox-1.tar"
	httpdArchive   = "httpd-1.tar"
	busyboxImage   = "limpet.io/test/busybox:1"
	httpdImage     = "limpet.io/test/httpd:1"
)

// barePod is a pod without a controller, as plain as pods are.
func barePod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "main", Image: busyboxImage, Command: []string{"sleep", "infinity"},
		}}},
	}
}

// deployment runs the test server, which ends at once when it is asked to.
func deployment(name string, replicas int) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	count := int32(replicas)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &count,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: httpdImage}}},
			},
		},
	}
}

// podRound is how long pods took to come and to go.
type podRound struct{ ready, gone time.Duration }

// comeAndGo creates a Deployment, waits until all its pods are Ready, deletes
// it and waits until all are gone.
func comeAndGo(ctx context.Context, client kubernetes.Interface, name string, replicas int) (podRound, error) {
	var round podRound
	deployments := client.AppsV1().Deployments(metav1.NamespaceDefault)
	start := time.Now()
	if _, err := deployments.Create(ctx, deployment(name, replicas), metav1.CreateOptions{}); err != nil {
		return round, fmt.Errorf("create deployment %s: %w", name, err)
	}
	if err := awaitPods(ctx, client, name, func(ready, _ int) bool { return ready == replicas }); err != nil {
		return round, fmt.Errorf("wait for %d pods of deployment %s to be Ready: %w", replicas, name, err)
	}
	round.ready = time.Since(start)
	start = time.Now()
	background := metav1.DeletePropagationBackground
	if err := deployments.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		return round, fmt.Errorf("delete deployment %s: %w", name, err)
	}
	if err := awaitPods(ctx, client, name, func(_, all int) bool { return all == 0 }); err != nil {
		return round, fmt.Errorf("wait for the pods of deployment %s to be gone: %w", name, err)
	}
	round.gone = time.Since(start)
	return round, nil
}

// podLimit bounds the coming, and the going, of pods.
const podLimit = 3 * time.Minute

// awaitPods follows the pods of an app until done accepts how many are Ready and
// how many there are.
func awaitPods(ctx context.Context, client kubernetes.Interface, app string, done func(ready, all int) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, podLimit, fmt.Errorf("not after %s", podLimit))
	defer cancel()
	pods := map[string]bool{} // by name, whether it is Ready
	seen := func(obj runtime.Object, gone bool) {
		pod, ok := obj.(*corev1.Pod)
		if !ok {
			return
		}
		pods[pod.Name] = isReady(pod)
		if gone {
			delete(pods, pod.Name)
		}
	}
	count := func() bool {
		ready := 0
		for _, r := range pods {
			if r {
				ready++
			}
		}
		return done(ready, len(pods))
	}
	return follow(ctx, client.CoreV1().Pods(metav1.NamespaceDefault), metav1.ListOptions{LabelSelector: "app=" + app}, seen, count)
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
