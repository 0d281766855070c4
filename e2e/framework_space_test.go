package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sort"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

// space is a namespace of one test, with the test's deadline.
type space struct {
	*cluster
	t    *testing.T
	ctx  context.Context
	name string
}

// newSpace makes a namespace. It is removed at the end of the test; when the
// test failed, what was in it is described first.
func newSpace(t *testing.T, c *cluster, limit time.Duration) *space {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	base := strings.ToLower(strings.TrimPrefix(strings.NewReplacer("/", "-", ".", "-").Replace(t.Name()), "Test"))
	ns, err := c.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: base + "-"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create namespace: %v", err)
	}
	s := &space{cluster: c, t: t, ctx: ctx, name: ns.Name}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if t.Failed() {
			s.describe(ctx)
		}
		_ = c.client.CoreV1().Namespaces().Delete(ctx, ns.Name, metav1.DeleteOptions{}) // the whole cluster goes at the end
	})
	// Pods are refused before their service account exists.
	await(ctx, t, c.client.CoreV1().ServiceAccounts(ns.Name), "default", func(*corev1.ServiceAccount) string { return "" })
	return s
}

// sharedSpace is a namespace of the shared cluster, for a test in parallel with others.
func sharedSpace(t *testing.T, limit time.Duration) *space {
	t.Helper()
	t.Parallel()
	return newSpace(t, sharedCluster(t), limit)
}

// with is the same space for a subtest.
func (s *space) with(t *testing.T) *space {
	sub := *s
	sub.t = t
	return &sub
}

func (s *space) pods() typedcore.PodInterface { return s.client.CoreV1().Pods(s.name) }

// must fails the test when a call to the API failed.
func must[T any](s *space) func(T, error) T {
	return func(v T, err error) T {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
		return v
	}
}

// ok fails the test on an error.
func (s *space) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// create makes a pod.
func (s *space) create(pod *corev1.Pod) *corev1.Pod {
	s.t.Helper()
	return must[*corev1.Pod](s)(s.pods().Create(s.ctx, pod, metav1.CreateOptions{}))
}

// start makes a pod and waits until it is Ready.
func (s *space) start(pod *corev1.Pod) *corev1.Pod {
	s.t.Helper()
	s.create(pod)
	return await(s.ctx, s.t, s.pods(), pod.Name, podReady)
}

// finish makes a pod, waits until it has ended and returns it with its log.
func (s *space) finish(pod *corev1.Pod) (*corev1.Pod, string) {
	s.t.Helper()
	s.create(pod)
	pod = await(s.ctx, s.t, s.pods(), pod.Name, podEnded)
	return pod, s.log(pod.Name, &corev1.PodLogOptions{})
}

// selected waits for exactly n pods with the labels, all Ready, and returns them by name.
func (s *space) selected(n int, label map[string]string) []*corev1.Pod {
	s.t.Helper()
	pods := awaitSet(s.ctx, s.t, s.pods(), metav1.ListOptions{LabelSelector: labels.FormatLabels(label)}, func(list []*corev1.Pod) string {
		if len(list) != n {
			return fmt.Sprintf("%d pods, want %d", len(list), n)
		}
		for _, p := range list {
			if lack := podReady(p); lack != "" {
				return p.Name + ": " + lack
			}
		}
		return ""
	})
	sort.Slice(pods, func(i, j int) bool { return pods[i].Name < pods[j].Name })
	return pods
}

func (s *space) log(pod string, opts *corev1.PodLogOptions) string {
	s.t.Helper()
	return string(must[[]byte](s)(s.pods().GetLogs(pod, opts).DoRaw(s.ctx)))
}

// exec runs a command in a pod's (only or first) container; it must succeed.
func (s *space) exec(pod string, cmd ...string) string {
	s.t.Helper()
	out, err := s.tryExec(pod, cmd...)
	if err != nil {
		s.t.Fatalf("exec in pod %s: %s: %v: %s", pod, strings.Join(cmd, " "), err, out)
	}
	return out
}

// tryExec returns standard output, and standard error after it when the command failed.
func (s *space) tryExec(pod string, cmd ...string) (string, error) {
	req := s.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(s.name).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: cmd, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	exec, err := remotecommand.NewWebSocketExecutor(s.config, http.MethodGet, req.URL().String())
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	err = exec.StreamWithContext(s.ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}

// sh runs a shell script in a pod.
func (s *space) sh(pod, script string) string {
	s.t.Helper()
	return strings.TrimSpace(s.exec(pod, "sh", "-c", script))
}

// as is a client with a bearer token, through the same relay.
func (c *cluster) as(token string) *rest.Config {
	cfg := rest.AnonymousClientConfig(c.config)
	cfg.BearerToken = token
	return cfg
}

// describe logs what is in the namespace.
func (s *space) describe(ctx context.Context) {
	s.t.Helper()
	pods, err := s.pods().List(ctx, metav1.ListOptions{})
	if err != nil {
		s.t.Logf("pods of %s: %v", s.name, err)
		return
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		s.t.Logf("pod %s: %s", p.Name, describe(p))
		lines := int64(10)
		if log, err := s.pods().GetLogs(p.Name, &corev1.PodLogOptions{TailLines: &lines}).DoRaw(ctx); err == nil && len(log) > 0 {
			s.t.Logf("log of pod %s:\n%s", p.Name, log)
		}
	}
	events, err := s.client.CoreV1().Events(s.name).List(ctx, metav1.ListOptions{})
	if err != nil {
		s.t.Logf("events of %s: %v", s.name, err)
		return
	}
	for _, e := range events.Items[max(0, len(events.Items)-30):] {
		s.t.Logf("event %s %s/%s %s: %s", e.LastTimestamp.Format("15:04:05"), e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, e.Message)
	}
}

// kubectl runs the binary's kubectl on this machine, as administrator.
func (s *space) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.script(s.ctx, append([]string{"kubectl", "-n", s.name}, args...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}
