package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestImage runs the container image: a privileged pod whose limpet server has a pod of
// its own. A crash in it begins anew with what is in its volumes, and its end leaves
// nothing on the node.
func TestImage(t *testing.T) {
	t.Parallel()
	env.take(t, 1) // the limpet in the pod
	s := newSpace(t, sharedCluster(t), 3*time.Minute)
	const version, archive = "v0.0.0-e2e", "/root/limpet-image.tar"
	out := t.TempDir()
	goTool(t, "run", "./scripts/image", "-version", version, "-level", "1", "-out", out, runtime.GOARCH+"="+env.bin)
	s.drop(t, node1, archive, readFile(s, filepath.Join(out, "limpet-image-"+runtime.GOARCH+".tar")))
	t.Cleanup(func() { s.remove(t, node1, archive) })
	const ref = "docker.io/limpetio/limpet:" + version
	s.mustIn(s.ctx, t, node1, "limpet", "ctr", "images", "import", archive)
	t.Cleanup(func() { s.mustIn(context.Background(), t, node1, "limpet", "ctr", "images", "rm", ref) })

	s.start(nestedPod(ref))
	// In a pod, kubectl's default namespace is the pod's, of the cluster outside.
	kubectl := func(args ...string) result {
		return s.in(s.ctx, node1, append([]string{"limpet", "kubectl", "-n", s.name, "exec", "nested", "--", "kubectl", "-n", "default"}, args...)...)
	}
	says := func(want string, args ...string) {
		t.Helper()
		eventually(s.ctx, t, "kubectl "+strings.Join(args, " ")+" in the container", func() error {
			if r := kubectl(args...); r.code != 0 || strings.TrimSpace(r.stdout) != want {
				return fmt.Errorf("exit %d, want %q: %s", r.code, want, r.text())
			}
			return nil
		})
	}
	says("ok", "get", "--raw", "/readyz")
	says("serviceaccount/default", "get", "serviceaccount", "default", "-o", "name") // a pod needs it
	if r := kubectl("run", "web", "--image=limpet.io/test/httpd:1", "--image-pull-policy=Never"); r.code != 0 {
		t.Fatal(r.text())
	}
	ready := `jsonpath={.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}`
	says("true 0", "get", "pod", "web", "-o", ready)

	init, child := s.limpetsOf(t, "nested")
	s.mustIn(s.ctx, t, node1, "kill", "-KILL", strconv.Itoa(child))
	eventually(s.ctx, t, "the container to be started again", func() error {
		pod, err := s.pods().Get(s.ctx, "nested", metav1.GetOptions{})
		if err != nil {
			return err
		}
		status := pod.Status.ContainerStatuses[0]
		if last := status.LastTerminationState.Terminated; !status.Ready || last == nil || last.ExitCode != 137 {
			return fmt.Errorf("ready %v, ended before: %+v", status.Ready, last)
		}
		return nil
	})
	says("true 1", "get", "pod", "web", "-o", ready)
	if again, _ := s.limpetsOf(t, "nested"); again == init {
		t.Errorf("the container's first process is still %d", init)
	}

	start := time.Now()
	s.ok(s.pods().Delete(s.ctx, "nested", metav1.DeleteOptions{}))
	awaitGone(s.ctx, t, s.pods(), "nested")
	t.Logf("ended after %.1f s", time.Since(start).Seconds())
	if left := s.limpets(t, "nested"); left != "" {
		t.Errorf("processes are left: %s", left)
	}
}

// nestedPod is limpet server as a pod. Its pods and Services need other ranges than
// those of the cluster that it is in.
func nestedPod(image string) *corev1.Pod {
	privileged, grace := true, int64(10)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "nested"},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "limpet", Image: image, ImagePullPolicy: corev1.PullNever,
				Args:            []string{"server", "--cluster-cidr", "10.44.0.0/16", "--service-cidr", "10.45.0.0/16"},
				SecurityContext: &corev1.SecurityContext{Privileged: &privileged},
			}},
		},
	}
	c := &pod.Spec.Containers[0]
	for name, path := range map[string]string{"data": "/var/lib/limpet", "kubelet": "/var/lib/kubelet", "log": "/var/log"} {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path})
	}
	file := corev1.HostPathFile
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "image", VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: imagesDir + "/httpd-1.tar", Type: &file},
	}})
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "image", MountPath: imagesDir + "/httpd-1.tar", ReadOnly: true})
	return pod
}

// limpets are the limpet servers in a pod, each with its pid on the node and its own.
func (s *space) limpets(t *testing.T, pod string) string {
	t.Helper()
	return s.mustIn(s.ctx, t, node1, "sh", "-c", `for p in /proc/[0-9]*; do
  if tr '\0' ' ' <$p/cmdline 2>/dev/null | grep -q '^/bin/limpet server ' && tr '\0' '\n' <$p/environ 2>/dev/null | grep -qx "HOSTNAME=$1"; then
    echo "${p#/proc/} $(awk '/^NSpid/ { print $NF }' $p/status)"
  fi
done`, "sh", pod)
}

// limpetsOf are the first process of a pod's container, and limpet, its child, as the
// node numbers them.
func (s *space) limpetsOf(t *testing.T, pod string) (init, child int) {
	t.Helper()
	out := s.limpets(t, pod)
	for line := range strings.Lines(out) {
		var pid, inner int
		if _, err := fmt.Sscan(line, &pid, &inner); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		if inner == 1 {
			init = pid
		} else {
			child = pid
		}
	}
	if init == 0 || child == 0 {
		t.Fatalf("no limpet and its parent in the pod: %q", out)
	}
	return init, child
}
