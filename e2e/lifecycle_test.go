package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// stopLimit is how long limpet may take to stop in order.
const stopLimit = 30 * time.Second

// TestLifeCycle stops, kills and starts limpet, and at last the whole node,
// under two pods that clients call all the time.
func TestLifeCycle(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 1, "--env", "NOTIFY_SOCKET="+notifySocket)
	s := newSpace(t, c, 8*time.Minute)
	svc := service("web")
	svc.Spec.Type = corev1.ServiceTypeNodePort
	svc = s.createService(svc)
	s.deploy(deployment("web", 2, httpdSpec()))
	box := s.start(pod("box", shellSpec("")))
	clients := []client{
		{s.node(t, node1), "http://" + svc.Spec.ClusterIP + "/version"},
		{podPlace(t, box), "http://" + svc.Spec.ClusterIP + "/version"},
		{s.node(t, lan), fmt.Sprintf("http://%s:%d/version", s.nodeIP(t, node1), svc.Spec.Ports[0].NodePort)},
	}
	for _, cl := range clients {
		cl.from.mustFetch(s.ctx, t, strings.TrimSuffix(strings.TrimPrefix(cl.url, "http://"), "/version"), "/version")
	}

	t.Run("second server is refused", func(t *testing.T) { secondServer(t, s.with(t)) })
	t.Run("SIGTERM and start", func(t *testing.T) {
		s := s.with(t)
		messages := s.node(t, node1).serviceManager(t)
		undisturbed(s, clients, "restart", func() { stopInOrder(s) })
		checkMessages(t, messages())
	})
	t.Run("SIGKILL and start", func(t *testing.T) {
		s := s.with(t)
		undisturbed(s, clients, "crash", func() { s.must(s.ctx, t, "stop", node1, "KILL") })
	})
	t.Run("ended while starting", func(t *testing.T) {
		s := s.with(t)
		undisturbed(s, clients, "broken starts", func() { endWhileStarting(s) })
	})
	t.Run("taints evict", func(t *testing.T) { taintsEvict(t, s.with(t)) })
	t.Run("power cut", func(t *testing.T) { powerCut(t, s.with(t), clients[2]) })
}

// stopInOrder is what the init system does.
func stopInOrder(s *space) {
	s.t.Helper()
	r := s.run(s.ctx, "stop", node1, "TERM")
	if r.code != 0 || r.took > stopLimit {
		s.t.Errorf("SIGTERM: limpet ended after %s, want %s at most: %s", r.took, stopLimit, r.stderr)
	}
	s.t.Logf("limpet ended %s after SIGTERM", r.took.Round(time.Millisecond))
	if status := s.awaitEnd(); status != "0" {
		s.t.Errorf("exit status %s, want 0", status)
	}
}

// endWhileStarting ends limpet at every step of its start, the moment the step
// is done: once the soft and once the hard way.
func endWhileStarting(s *space) {
	s.t.Helper()
	s.must(s.ctx, s.t, "stop", node1, "KILL")
	for _, step := range []string{"status", "containerd", "datastore", "kube-apiserver", "deploy", "dns", "flannel", "kubelet"} {
		for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			log := s.limpetLog()
			s.must(s.ctx, s.t, "start", node1)
			pid, err := strconv.Atoi(strings.TrimSpace(s.must(s.ctx, s.t, "pid", node1)))
			s.ok(err)
			log.await("component is ready\" component=" + step + " ")
			s.ok(syscall.Kill(pid, signal))
			start := time.Now()
			status := s.awaitEnd()
			took := time.Since(start)
			s.t.Logf("after %s was ready: limpet ended %s after %s, exit status %s", step, took.Round(time.Millisecond), signal, status)
			if signal == syscall.SIGTERM && (status != "0" || took > stopLimit) {
				s.t.Errorf("exit status %s after %s, want 0 within %s", status, took, stopLimit)
			}
		}
	}
}

// awaitEnd waits until limpet on n1 has ended and returns its exit status.
func (s *space) awaitEnd() (status string) {
	s.t.Helper()
	eventually(s.ctx, s.t, "the end of limpet", func() error {
		data, err := os.ReadFile(s.path(s.t, node1, "/run/node/limpet.exit"))
		status = strings.TrimSpace(string(data))
		return err
	})
	return status
}

// logTail is what limpet on n1 logs from now on.
type logTail struct {
	*space
	from int64
}

func (s *space) limpetLog() logTail {
	s.t.Helper()
	st, err := os.Stat(filepath.Join(s.dir, node1, "limpet.log"))
	s.ok(err)
	return logTail{s, st.Size()}
}

// await returns within a millisecond of the text's appearance.
func (l logTail) await(text string) {
	l.t.Helper()
	for {
		data, err := os.ReadFile(filepath.Join(l.dir, node1, "limpet.log"))
		l.ok(err)
		if bytes.Contains(data[l.from:], []byte(text)) {
			return
		}
		select {
		case <-l.ctx.Done():
			l.t.Fatalf("limpet did not log %q: %v", text, l.ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// client calls a URL from a place.
type client struct {
	from place
	url  string
}

// footprint identifies one run of a container.
type footprint struct {
	container string
	restarts  int32
	started   time.Time
	pid       int
}

func footprints(s *space) map[string]footprint {
	s.t.Helper()
	all := map[string]footprint{}
	list := must[*corev1.PodList](s)(s.pods().List(s.ctx, metav1.ListOptions{}))
	for i := range list.Items {
		p := &list.Items[i]
		st := p.Status.ContainerStatuses[0]
		if st.State.Running == nil {
			s.t.Fatalf("pod %s does not run: %s", p.Name, describe(p))
		}
		all[p.Name] = footprint{st.ContainerID, st.RestartCount, st.State.Running.StartedAt.Time, processOf(s.t, p, st.Name)}
	}
	return all
}

// undisturbed ends limpet, starts it again and waits until it does its work;
// meanwhile no request may fail and no container may be touched.
func undisturbed(s *space, clients []client, what string, end func()) {
	s.t.Helper()
	before := footprints(s)
	var loads []*traffic
	for _, c := range clients {
		loads = append(loads, c.from.sendTraffic(s.ctx, c.url))
	}
	end()
	time.Sleep(2 * time.Second) // pods serve without limpet
	start := time.Now()
	s.must(s.ctx, s.t, "start", node1)
	name := "after-" + strings.ReplaceAll(what, " ", "-")
	eventually(s.ctx, s.t, "limpet status after the start", func() error {
		if r := s.in(s.ctx, node1, "limpet", "status"); r.code != 0 {
			return fmt.Errorf("%s", r.text())
		}
		return nil
	})
	s.t.Logf("all was well %s after the start", time.Since(start).Round(time.Millisecond))
	// A new pod, and its way through the Service, prove that every part works again.
	fresh := pod(name, httpdSpec())
	fresh.Labels = app("web")
	p := s.start(fresh)
	eventually(s.ctx, s.t, "the new pod gets traffic", func() error {
		for range 20 {
			if got, err := clients[0].from.fetch(s.ctx, strings.Split(clients[0].url, "/")[2], "/"); err == nil && strings.Contains(got, "pod="+p.Name+"\n") {
				return nil
			}
		}
		return fmt.Errorf("none of 20 requests went to it")
	})
	if out := s.sh("box", "echo works"); out != "works" {
		s.t.Errorf("exec after the start: %q", out)
	}
	for i, load := range loads {
		load.mustBeUnharmed(s.t, what+", from "+clients[i].from.name)
	}
	after := footprints(s)
	for name, was := range before {
		if is := after[name]; is != was {
			s.t.Errorf("pod %s was touched: %+v, before %+v", name, is, was)
		}
	}
	s.ok(s.pods().Delete(s.ctx, p.Name, metav1.DeleteOptions{}))
	awaitGone(s.ctx, s.t, s.pods(), p.Name)
}

// secondServer starts a server where one runs, with the same port and with another.
func secondServer(t *testing.T, s *space) {
	pid := s.status(s.ctx, t).PID
	config := s.mustIn(s.ctx, t, node1, "sha256sum", adminKubeconfig)
	for _, args := range [][]string{{"server"}, {"server", "--https-listen-port", "7443"}} {
		r := s.in(s.ctx, node1, append([]string{"timeout", "60", "limpet"}, args...)...)
		checkRefusal(t, r, 1, "another limpet", dataDir, fmt.Sprint(pid))
	}
	if got := s.status(s.ctx, t).PID; got != pid {
		t.Errorf("limpet status is answered by pid %d, before %d", got, pid)
	}
	if got := s.mustIn(s.ctx, t, node1, "sha256sum", adminKubeconfig); got != config {
		t.Error("the second server changed the kubeconfig of the first")
	}
	if r := s.in(s.ctx, node1, "limpet", "status"); r.code != 0 {
		t.Errorf("the first server is disturbed: %s", r.text())
	}
}

// taintsEvict taints the node under three pods: one that does not tolerate it,
// one that does, and one that does for five seconds.
func taintsEvict(t *testing.T, s *space) {
	const patience = 5 * time.Second
	toleration := corev1.Toleration{Key: "e2e", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	withTolerations := func(name string, list ...corev1.Toleration) {
		p := pod(name, shellSpec(""))
		p.Spec.Tolerations = list
		s.create(p)
	}
	patient := toleration
	patient.TolerationSeconds = ptr(int64(patience.Seconds()))
	withTolerations("intolerant")
	withTolerations("tolerant", toleration)
	withTolerations("patient", patient)
	for _, name := range []string{"intolerant", "tolerant", "patient"} {
		await(s.ctx, t, s.pods(), name, podReady)
	}
	start := time.Now()
	s.kubectl("taint", "node", node1, "e2e=yes:NoExecute")
	awaitGone(s.ctx, t, s.pods(), "intolerant")
	t.Logf("the intolerant pod was gone %s after the taint", time.Since(start).Round(time.Millisecond))
	awaitGone(s.ctx, t, s.pods(), "patient")
	if took := time.Since(start); took < patience {
		t.Errorf("the pod that tolerates the taint for %s was gone after %s", patience, took)
	}
	if p := must[*corev1.Pod](s)(s.pods().Get(s.ctx, "tolerant", metav1.GetOptions{})); podReady(p) != "" {
		t.Errorf("the tolerant pod: %s", describe(p))
	}
	s.kubectl("taint", "node", node1, "e2e-")
	s.ok(s.pods().Delete(s.ctx, "tolerant", metav1.DeleteOptions{}))
	s.selected(2, app("web")) // the Deployment's pods come back
}

// powerCut ends the node without warning and boots it; its pods come back by themselves.
func powerCut(t *testing.T, s *space, c client) {
	pods := s.selected(2, app("web"))
	start := time.Now()
	s.must(s.ctx, t, "reboot", node1)
	s.ok(s.connect(s.ctx))
	awaitSet(s.ctx, t, s.pods(), metav1.ListOptions{LabelSelector: labels.FormatLabels(app("web"))}, func(list []*corev1.Pod) string {
		for _, p := range list {
			for _, old := range pods {
				if p.UID == old.UID && p.Status.ContainerStatuses[0].ContainerID == old.Status.ContainerStatuses[0].ContainerID {
					return p.Name + " is still described as before the power cut"
				}
			}
			if lack := podReady(p); lack != "" {
				return p.Name + ": " + lack
			}
		}
		if len(list) != 2 {
			return fmt.Sprintf("%d pods, want 2", len(list))
		}
		return ""
	})
	eventually(s.ctx, t, "the Service after the boot", func() error {
		_, err := get(s.ctx, c.from.http(), c.url)
		return err
	})
	t.Logf("the pods served again %s after the power cut", time.Since(start).Round(time.Millisecond))
	for _, p := range pods {
		now := must[*corev1.Pod](s)(s.pods().Get(s.ctx, p.Name, metav1.GetOptions{}))
		if now.UID != p.UID {
			t.Errorf("pod %s was replaced instead of restarted", p.Name)
		}
	}
	eventually(s.ctx, t, "limpet status after the boot", func() error {
		if r := s.in(s.ctx, node1, "limpet", "status"); r.code != 0 {
			return fmt.Errorf("%s", r.text())
		}
		return nil
	})
}
