package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
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
)

const (
	offlineNode = "n2"
	hostData    = "/srv/autonomy" // on the node's disk
	tokenFile   = "/var/run/secrets/kubernetes.io/serviceaccount/token"
)

// TestAutonomy takes the server away from an agent: for two minutes under
// traffic, and while the agent's machine reboots.
func TestAutonomy(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 2, "--nodes", "2")
	s := newSpace(t, c, 7*time.Minute)
	a := newAutonomy(s)
	if !t.Run("ServerAway", func(t *testing.T) { a.with(t).serverAway() }) {
		return
	}
	t.Run("RebootWithoutServer", func(t *testing.T) { a.with(t).reboot() })
}

// autonomy is what runs on the agent.
type autonomy struct {
	*space
	web, crasher *corev1.Pod
	service      string // address of the Service
}

func (a *autonomy) with(t *testing.T) *autonomy {
	sub := *a
	sub.space = a.space.with(t)
	return &sub
}

// onAgent puts a pod on the agent, with the node's disk at /host.
func onAgent(p *corev1.Pod) *corev1.Pod {
	p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: offlineNode}
	mount(&p.Spec, "host", "/host", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: hostData, Type: ptr(corev1.HostPathDirectoryOrCreate)}})
	return p
}

func mount(spec *corev1.PodSpec, name, path string, v corev1.VolumeSource) {
	spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: v})
	spec.Containers[0].VolumeMounts = append(spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path})
}

// newAutonomy starts a server with every kind of volume and a Service, pods that
// leave a mark on the disk whenever they start, and one that has ended.
func newAutonomy(s *space) *autonomy {
	a := &autonomy{space: s}
	must[*corev1.Secret](s)(s.client.CoreV1().Secrets(s.name).Create(s.ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "key"}, StringData: map[string]string{"password": "hunter2"}}, metav1.CreateOptions{}))
	must[*corev1.ConfigMap](s)(s.client.CoreV1().ConfigMaps(s.name).Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "conf"}, Data: map[string]string{"greeting": "hello"}}, metav1.CreateOptions{}))
	a.service = s.createService(service("web")).Spec.ClusterIP
	spec := httpdSpec()
	spec.AutomountServiceAccountToken = nil
	spec.Containers[0].Env = append(spec.Containers[0].Env, secretEnv())
	mount(&spec, "key", "/key", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}})
	mount(&spec, "conf", "/conf", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}})
	mount(&spec, "scratch", "/scratch", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	a.web = s.start(onAgent(pod("web", spec)))

	crasher := shellSpec(marking("crasher"))
	crasher.Containers[0].Env = []corev1.EnvVar{secretEnv()}
	a.crasher = s.start(onAgent(pod("crasher", crasher)))
	s.start(onAgent(pod("leaver", shellSpec(marking("leaver")))))
	s.start(onAgent(pod("gone", shellSpec(marking("gone")))))
	ended := onAgent(once("ended", "echo ended >>/host/ended"))
	if p, _ := s.finish(ended); p.Status.Phase != corev1.PodSucceeded {
		s.t.Fatalf("pod ended: %s", describe(p))
	}
	s.ok(s.pods().Delete(s.ctx, "gone", metav1.DeleteOptions{}))
	awaitGone(s.ctx, s.t, s.pods(), "gone")
	a.awaitRecord()
	return a
}

// marking is a script that leaves a line with its Secret on the node's disk and waits.
func marking(name string) string {
	return "echo start $PASSWORD >>/host/" + name + "; trap exit TERM; while :; do sleep 3600 & wait; done"
}

func secretEnv() corev1.EnvVar {
	return corev1.EnvVar{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "key"}, Key: "password"}}}
}

// awaitRecord waits until the agent has recorded what is behind the Service,
// which is what it waits longest with.
func (a *autonomy) awaitRecord() {
	a.t.Helper()
	eventually(a.ctx, a.t, "the agent records the address behind the Service", func() error {
		data, err := os.ReadFile(a.path(a.t, offlineNode, dataDir+"/agent/cache/objects"))
		if err != nil {
			return err
		}
		last := data[max(0, bytes.LastIndex(data, []byte("endpointslices/"+a.name+"/web-"))):]
		if !bytes.Contains(last, []byte(a.web.Status.PodIP)) {
			return fmt.Errorf("not among %d bytes", len(data))
		}
		return nil
	})
}

// marks are the lines that a pod has left on the node's disk.
func (a *autonomy) marks(name string) []string {
	data, err := os.ReadFile(filepath.Join(a.dir, offlineNode, "disk", hostData, name))
	if err != nil {
		return []string{err.Error()}
	}
	return strings.Fields(strings.ReplaceAll(strings.TrimSpace(string(data)), " ", "="))
}

// awaitMarks waits until a pod has started n times in all, each time with its Secret.
func (a *autonomy) awaitMarks(name, mark string, n int) {
	a.t.Helper()
	want := strings.TrimSpace(strings.Repeat(mark+" ", n))
	eventually(a.ctx, a.t, fmt.Sprintf("pod %s has started %d times", name, n), func() error {
		if got := strings.Join(a.marks(name), " "); got != want {
			return fmt.Errorf("its marks are %q", got)
		}
		return nil
	})
}

// file reads a file in the web pod through the Service.
func (a *autonomy) file(path string) (string, error) {
	return a.node(a.t, offlineNode).fetch(a.ctx, a.service, "/file?p="+path)
}

// mustServe checks that the Service answers on the agent from its pod, with
// what the pod's volumes shall hold.
func (a *autonomy) mustServe(files map[string]string) {
	a.t.Helper()
	at := a.node(a.t, offlineNode)
	if body := at.mustFetch(a.ctx, a.t, a.service+":80", "/"); !strings.Contains(body, "pod=web\n") {
		a.t.Errorf("the Service answers %q", body)
	}
	for path, want := range files {
		eventually(a.ctx, a.t, path, func() error {
			got, err := a.file(path)
			if err == nil && !strings.Contains(got, want) {
				err = fmt.Errorf("it holds %q, want %q", got, want)
			}
			return err
		})
	}
	if got, err := at.fetch(a.ctx, a.service, "/env?k=PASSWORD"); err != nil || strings.TrimSpace(got) != "hunter2" {
		a.t.Errorf("the Secret in the environment is %q, %v", got, err)
	}
}

// mustResolve asks the DNS server of the agent, as its pods do.
func (a *autonomy) mustResolve() {
	a.t.Helper()
	r := a.node(a.t, offlineNode).resolver("10.43.0.10:53")
	eventually(a.ctx, a.t, "the Service's name", func() error {
		got, err := r.LookupHost(a.ctx, "web."+a.name+".svc.cluster.local.")
		if err == nil && (len(got) != 1 || got[0] != a.service) {
			err = fmt.Errorf("it is %v, want %s", got, a.service)
		}
		return err
	})
}

// issuer says who made the token in the web pod.
func (a *autonomy) issuer() (string, error) {
	token, err := a.file(tokenFile)
	if err != nil {
		return "", err
	}
	parts := strings.Split(strings.TrimSpace(token), ".")
	if len(parts) != 3 {
		return "", fmt.Errorf("%q is no token", token)
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", err
	}
	var claims struct {
		Issuer string `json:"iss"`
	}
	err = json.Unmarshal(body, &claims)
	return claims.Issuer, err
}

// crash ends the crasher's shell as a bug would.
func (a *autonomy) crash() {
	a.t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		a.t.Fatal(err)
	}
	for _, file := range procs {
		dir := filepath.Dir(file)
		group, _ := os.ReadFile(file)
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if !strings.Contains(strings.ReplaceAll(string(group), "_", "-"), "pod"+string(a.crasher.UID)) || !strings.Contains(string(command), "/host/crasher") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			a.t.Fatal(err)
		}
		a.ok(syscall.Kill(pid, syscall.SIGKILL))
		return
	}
	a.t.Fatal("the crasher does not run")
}

// serverAway stops the server for two minutes. Meanwhile a container crashes,
// and the agent is killed and started again.
func (a *autonomy) serverAway() {
	const away = 2 * time.Minute
	load := a.node(a.t, offlineNode).sendTraffic(a.ctx, "http://"+a.service+"/version")
	before := must[*corev1.Pod](a.space)(a.pods().Get(a.ctx, "web", metav1.GetOptions{}))
	a.must(a.ctx, a.t, "stop", node1)
	since := time.Now()
	a.mustResolve()
	a.crash()
	a.awaitMarks("crasher", "start=hunter2", 2)
	a.t.Logf("the crashed container ran again %s after the server went", time.Since(since).Round(time.Second))

	a.must(a.ctx, a.t, "stop", offlineNode, "KILL")
	a.must(a.ctx, a.t, "start", offlineNode)
	a.mustResolve()
	a.crash()
	a.awaitMarks("crasher", "start=hunter2", 3)
	a.t.Logf("it ran again after another crash under an agent that was killed and started, %s after the server went", time.Since(since).Round(time.Second))

	select {
	case <-time.After(time.Until(since.Add(away))):
	case <-a.ctx.Done():
		a.t.Fatal(a.ctx.Err())
	}
	a.must(a.ctx, a.t, "start", node1)
	a.awaitNode()
	load.mustBeUnharmed(a.t, "two minutes without a server")
	after := await(a.ctx, a.t, a.pods(), "web", podReady)
	if was, is := before.Status.ContainerStatuses[0].ContainerID, after.Status.ContainerStatuses[0].ContainerID; was != is || before.UID != after.UID {
		a.t.Errorf("the pod was touched: container %s, before %s", is, was)
	}
}

// awaitNode waits until the agent reports to the server again.
func (a *autonomy) awaitNode() {
	a.t.Helper()
	start := time.Now()
	eventually(a.ctx, a.t, "the server is back", func() error {
		_, err := a.client.Discovery().ServerVersion()
		return err
	})
	lease := func() (time.Time, error) {
		l, err := a.client.CoordinationV1().Leases("kube-node-lease").Get(a.ctx, offlineNode, metav1.GetOptions{})
		if err != nil {
			return time.Time{}, err
		}
		return l.Spec.RenewTime.Time, nil
	}
	eventually(a.ctx, a.t, "the agent renews its lease", func() error {
		renewed, err := lease()
		if err == nil && renewed.Before(start) {
			err = fmt.Errorf("last at %s", renewed)
		}
		return err
	})
	await(a.ctx, a.t, a.client.CoreV1().Nodes(), offlineNode, func(n *corev1.Node) string {
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				return ""
			}
		}
		return jsonText(n.Status.Conditions)
	})
	a.t.Logf("the node was Ready %s after the server was started", time.Since(start).Round(100*time.Millisecond))
}

// reboot cuts the agent's power, changes the cluster behind its back, takes the
// server away, boots the agent, and brings the server back.
func (a *autonomy) reboot() {
	before := must[*corev1.Pod](a.space)(a.pods().Get(a.ctx, "web", metav1.GetOptions{}))
	a.must(a.ctx, a.t, "halt", offlineNode)
	a.ok(a.pods().Delete(a.ctx, "leaver", metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(0))}))
	conf := must[*corev1.ConfigMap](a.space)(a.client.CoreV1().ConfigMaps(a.name).Get(a.ctx, "conf", metav1.GetOptions{}))
	conf.Data["greeting"] = "welcome back"
	must[*corev1.ConfigMap](a.space)(a.client.CoreV1().ConfigMaps(a.name).Update(a.ctx, conf, metav1.UpdateOptions{}))
	a.must(a.ctx, a.t, "stop", node1)
	start := time.Now()
	a.must(a.ctx, a.t, "reboot", offlineNode)
	a.mustServe(map[string]string{"/key/password": "hunter2", "/conf/greeting": "hello"})
	a.t.Logf("the pod served again %s after the power came back, without a server", time.Since(start).Round(100*time.Millisecond))
	a.mustResolve()
	a.awaitMarks("crasher", "start=hunter2", 4)
	a.awaitMarks("leaver", "start", 2) // nobody could tell the agent that it was deleted
	if issuer, err := a.issuer(); err != nil || issuer != "limpet-stand-in" {
		a.t.Errorf("the token is of %q, %v", issuer, err)
	}
	a.returnOfServer(before)
}

func (a *autonomy) returnOfServer(before *corev1.Pod) {
	a.must(a.ctx, a.t, "start", node1)
	start := time.Now()
	a.awaitNode()
	eventually(a.ctx, a.t, "the token is the cluster's", func() error {
		issuer, err := a.issuer()
		if err == nil && !strings.HasPrefix(issuer, "https://kubernetes.default.svc") {
			err = fmt.Errorf("it is of %q", issuer)
		}
		return err
	})
	a.t.Logf("the token was renewed %s after the server was started", time.Since(start).Round(100*time.Millisecond))
	a.mustServe(map[string]string{"/key/password": "hunter2", "/conf/greeting": "welcome back"})
	a.t.Logf("the changed ConfigMap was in the pod %s after the server was started", time.Since(start).Round(100*time.Millisecond))
	eventually(a.ctx, a.t, "the deleted pod is gone from the node", func() error {
		if pid := findProcess("/host/leaver"); pid != 0 {
			return fmt.Errorf("process %d runs", pid)
		}
		return nil
	})
	after := await(a.ctx, a.t, a.pods(), "web", podReady)
	if after.UID != before.UID || after.Status.ContainerStatuses[0].RestartCount != before.Status.ContainerStatuses[0].RestartCount+1 {
		a.t.Errorf("after one reboot the pod is %s, before %s", describe(after), describe(before))
	}
	for name, want := range map[string]string{"gone": "start", "ended": "ended"} {
		if got := strings.Join(a.marks(name), " "); got != want {
			a.t.Errorf("pod %s, which was not to run again, has left %q", name, got)
		}
	}
	if out := a.sh("crasher", "echo works"); out != "works" {
		a.t.Errorf("exec after the return: %q", out)
	}
}

// findProcess finds a shell of the tests on this machine by what its script says.
func findProcess(script string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if data, _ := os.ReadFile(file); bytes.HasPrefix(data, []byte("sh\x00-c\x00echo start")) && bytes.Contains(data, []byte(script)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			return pid
		}
	}
	return 0
}
