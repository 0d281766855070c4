package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// imageArrivedAnnotation is set on a pod that waits for an image when images
// were imported from a file. Its value is the time of the import.
const imageArrivedAnnotation = "limpet.io/image-arrived"

// imageArrivals makes the kubelet look at once at pods that wait for an image,
// when image files have been imported. By itself it looks again only after its
// back-off of 10 to 20 seconds; a change of the pod's annotations makes it look
// now. The kubelet's own identity does for that: it may write the status of its
// pods, and with it their annotations.
type imageArrivals struct {
	nodeName, kubeconfig string
	arrived              chan struct{}
}

func newImageArrivals(nodeName, kubeconfig string) *imageArrivals {
	return &imageArrivals{nodeName: nodeName, kubeconfig: kubeconfig, arrived: make(chan struct{}, 1)}
}

// notify says that images were imported. It does not block.
func (a *imageArrivals) notify() {
	select {
	case a.arrived <- struct{}{}:
	default:
	}
}

func (a *imageArrivals) Name() string { return "image-arrivals" }

func (a *imageArrivals) Run(ctx context.Context, ready func()) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", a.kubeconfig)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.arrived:
			if err := a.wake(ctx, client, time.Now()); err != nil && ctx.Err() == nil {
				a.notify() // those that are left, after the restart
				return err
			}
		}
	}
}

// wake annotates the node's pods that wait for an image.
func (a *imageArrivals) wake(ctx context.Context, client kubernetes.Interface, now time.Time) error {
	pods, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: fields.Set{"spec.nodeName": a.nodeName, "status.phase": string(corev1.PodPending)}.String(),
	})
	if err != nil {
		return fmt.Errorf("list pending pods: %w", err)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"annotations": map[string]string{imageArrivedAnnotation: now.UTC().Format(time.RFC3339Nano)},
	}})
	if err != nil {
		return err
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if !waitsForImage(pod) {
			continue
		}
		_, err := client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("wake pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
	}
	return nil
}

// waitsForImage reports whether a container of the pod could not start for want
// of its image.
func waitsForImage(pod *corev1.Pod) bool {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for _, c := range list {
			if c.State.Waiting == nil {
				continue
			}
			switch c.State.Waiting.Reason { // of pkg/kubelet/images
			case "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable":
				return true
			}
		}
	}
	return false
}
