package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestJoin: machines become nodes, are told why they may not, and stay nodes
// whatever happens to the server or to their data.
func TestJoin(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 4, "--nodes", "2")
	j := joinTest{space: newSpace(t, c, 7*time.Minute)}
	j.server = "https://" + c.nodeIP(t, node1) + ":6443"
	j.token = strings.TrimSpace(c.mustIn(j.ctx, t, node1, "cat", dataDir+"/server/token"))

	t.Run("an agent runs pods", func(t *testing.T) { j.with(t).runsPods() })
	t.Run("identities", func(t *testing.T) { j.with(t).identities() })
	t.Run("refusals", func(t *testing.T) { j.with(t).refusals() })
	t.Run("an agent before its server", func(t *testing.T) { j.with(t).beforeServer() })
	t.Run("the server is killed", func(t *testing.T) { j.with(t).serverKilled() })
	t.Run("the token is rotated", func(t *testing.T) { j.with(t).rotated() })
	t.Run("the data of every agent is lost", func(t *testing.T) { j.with(t).dataLost() })
}

// joinTest has the server n1 and the agent n2; n3 is another machine.
type joinTest struct {
	*space
	server, token string
}

func (j joinTest) with(t *testing.T) joinTest {
	s := j.space.with(t)
	// One step that hangs shall not take the time of the others.
	ctx, cancel := context.WithTimeout(s.ctx, 90*time.Second)
	t.Cleanup(cancel)
	s.ctx = ctx
	return joinTest{s, j.server, j.token}
}

// ready waits until a node is Ready.
func (j joinTest) ready(name string) *corev1.Node {
	j.t.Helper()
	return await(j.ctx, j.t, j.client.CoreV1().Nodes(), name, func(n *corev1.Node) string {
		if nodeIs(n, corev1.ConditionTrue) {
			return ""
		}
		return fmt.Sprintf("not Ready: %+v", n.Status.Conditions)
	})
}

// on pins a pod to a node.
func on(node string, p *corev1.Pod) *corev1.Pod {
	p.Spec.NodeName = node
	return p
}

func (j joinTest) runsPods() {
	n2 := j.ready("n2")
	if n2.Spec.PodCIDR == "" || n2.Labels["node-role.kubernetes.io/control-plane"] != "" {
		j.t.Errorf("n2 has pod range %q and labels %v", n2.Spec.PodCIDR, n2.Labels)
	}
	web := j.start(on("n2", pod("web", httpdSpec())))
	box := j.start(on(node1, pod("box", shellSpec(""))))
	podPlace(j.t, box).mustFetch(j.ctx, j.t, web.Status.PodIP+":"+httpPortText, "/version")
	j.start(on("n2", pod("shell", shellSpec(""))))
	if out := j.sh("shell", "echo $((6*7))"); strings.TrimSpace(out) != "42" {
		j.t.Errorf("exec on n2: %q", out)
	}
}

func (j joinTest) identities() {
	users := map[string]string{} // signer and requestor of what was issued
	list, err := j.client.CertificatesV1().CertificateSigningRequests().List(j.ctx, metav1.ListOptions{})
	j.ok(err)
	for _, csr := range list.Items {
		if len(csr.Status.Certificate) > 0 {
			users[csr.Spec.SignerName] = csr.Spec.Username
		}
	}
	if got := users["kubernetes.io/kube-apiserver-client-kubelet"]; !strings.HasPrefix(got, "system:bootstrap:") {
		j.t.Errorf("the node's certificate was asked for by %q", got)
	}
	for _, signer := range []string{"kubernetes.io/kube-apiserver-client", "kubernetes.io/kubelet-serving"} {
		if users[signer] != "system:node:n2" {
			j.t.Errorf("certificates of %s were asked for by %q", signer, users[signer])
		}
	}

	// What each may do is enough for a node that works; here is what it may not.
	for _, tt := range []struct{ identity, verb, resource string }{
		{"kube-proxy", "list", "secrets"}, {"network", "patch", "nodes"}, {"network", "list", "pods"}, {"dns", "list", "secrets"}, {"kubelet", "list", "secrets"},
	} {
		r := j.in(j.ctx, "n2", "limpet", "kubectl", "--kubeconfig", dataDir+"/agent/cred/"+tt.identity+".kubeconfig", "auth", "can-i", tt.verb, tt.resource, "-A")
		if !strings.HasPrefix(r.stdout, "no") {
			j.t.Errorf("%s may %s %s: %s", tt.identity, tt.verb, tt.resource, r.text())
		}
	}
	j.statusOfAgent("n2")

	modes := j.mustIn(j.ctx, j.t, "n2", "sh", "-c", "stat -c '%a %n' /etc/limpet/node/identity.key "+dataDir+"/agent/tls/*-current.pem "+dataDir+"/agent/cred/*")
	for _, line := range strings.Split(strings.TrimSpace(modes), "\n") {
		if !strings.HasPrefix(line, "600 ") {
			j.t.Errorf("a secret is readable: %s", line)
		}
	}
}

// statusOfAgent waits until limpet status says that all is well.
func (j joinTest) statusOfAgent(machine string) {
	j.t.Helper()
	eventually(j.ctx, j.t, "limpet status on "+machine, func() error {
		r := j.in(j.ctx, machine, "limpet", "status", "-o", "json")
		var s struct {
			Mode    string
			Servers []struct {
				Address string
				Active  bool
			}
			Certificates []struct {
				Name    string
				Expires time.Time
			}
		}
		if err := json.Unmarshal([]byte(r.stdout), &s); err != nil {
			return fmt.Errorf("exit code %d, %w: %s", r.code, err, r.text())
		}
		if r.code != 0 {
			return fmt.Errorf("exit code %d: %s", r.code, r.text())
		}
		if s.Mode != "agent" || len(s.Servers) != 1 || !s.Servers[0].Active || "https://"+s.Servers[0].Address != j.server {
			return fmt.Errorf("mode %s, servers %+v", s.Mode, s.Servers)
		}
		if len(s.Certificates) != 4 || time.Until(s.Certificates[0].Expires) < 300*24*time.Hour {
			return fmt.Errorf("certificates %+v", s.Certificates)
		}
		return nil
	})
}

// refusals runs agents on n3 that must end with a code of their own, say why, and
// leave the disk as it was.
func (j joinTest) refusals() {
	// Its limpet ends at once, since it cannot run with such a label; the machine stays.
	j.must(j.ctx, j.t, "add", "n3", "agent", "--server", j.server, "--token-file", "/etc/limpet/token", "--node-label", "node-role.kubernetes.io/control-plane=true")
	j.ended("n3", 2)
	limpet := func(args ...string) string {
		return j.mustIn(j.ctx, j.t, node1, append([]string{"limpet", "token"}, args...)...)
	}
	head, secret, _ := strings.Cut(j.token, ".")
	deleted := strings.TrimSpace(limpet("create"))
	_, id, _ := strings.Cut(deleted, "::")
	limpet("delete", strings.Split(id, ".")[0])
	expired := strings.TrimSpace(limpet("create", "--ttl", "5s"))
	time.Sleep(6 * time.Second)
	before := j.disk("n3")
	for name, tt := range map[string]struct {
		code          int
		server, token string
		text          string
		flags         []string
	}{
		"malformed token":  {20, j.server, "nonsense", "limpet token create", nil},
		"no token":         {20, j.server, "", "--token-file", nil},
		"wrong hash":       {21, j.server, strings.Replace(j.token, head[3:7], "dead", 1), "another cluster", nil},
		"wrong secret":     {22, j.server, head + ".aaaaaaaaaaaaaaaa", "does not know the token", nil},
		"deleted token":    {22, j.server, deleted, "does not know the token", nil},
		"expired token":    {23, j.server, expired, "has expired at", nil},
		"another server":   {24, strings.Replace(j.server, "6443", "10250", 1), j.token, "no limpet server", nil},
		"http":             {26, strings.Replace(j.server, "https", "http", 1), j.token, "https://", nil},
		"name of n2":       {28, j.server, j.token, "limpet node rejoin n2", []string{"--node-name", "n2"}},
		"name of n1":       {28, j.server, j.token, "n1", []string{"--node-name", "n1"}},
		"reserved label":   {2, j.server, j.token, "node-label", []string{"--node-label", "kubernetes.io/hostname2=x"}},
		"kubelet argument": {2, j.server, j.token, "no-such-flag", []string{"--kubelet-arg", "no-such-flag=1"}},
	} {
		ctx, cancel := context.WithTimeout(j.ctx, 45*time.Second)
		args := append([]string{"limpet", "agent", "--server", tt.server}, tt.flags...)
		if tt.token != "" {
			args = append(args, "--token", tt.token)
		}
		r := j.in(ctx, "n3", args...)
		cancel()
		if r.code != tt.code || !strings.Contains(r.text(), tt.text) {
			j.t.Errorf("%s: exit code %d, want %d and %q:\n%s", name, r.code, tt.code, tt.text, r.text())
		}
		if strings.Contains(r.text(), secret) {
			j.t.Errorf("%s: the secret is printed", name)
		}
		if now := j.disk("n3"); now != before {
			j.t.Errorf("%s: the disk was %s and is %s", name, before, now)
		}
		j.t.Logf("%s: exit code %d after %s", name, r.code, r.took.Round(time.Millisecond))
	}
}

// ended waits for the end of a machine's limpet.
func (j joinTest) ended(machine string, code int) {
	j.t.Helper()
	eventually(j.ctx, j.t, "the end of limpet on "+machine, func() error {
		for _, line := range strings.Split(j.must(j.ctx, j.t, "status"), "\n") {
			if strings.HasPrefix(line, machine+" ") && strings.Contains(line, fmt.Sprintf("(status %d)", code)) {
				return nil
			}
		}
		return fmt.Errorf("no exit code %d", code)
	})
}

// disk is what limpet has on a machine, files with sizes and times.
func (j joinTest) disk(machine string) string {
	j.t.Helper()
	return j.mustIn(j.ctx, j.t, machine, "sh", "-c", "find /etc/limpet "+dataDir+" /var/lib/kubelet \\( -type f -printf '%p %s %T@\\n' -o -printf '%p\\n' \\) 2>/dev/null | sort; true")
}

// beforeServer starts an agent while no server is there, with a name of its own,
// a label and a taint.
func (j joinTest) beforeServer() {
	j.must(j.ctx, j.t, "stop", node1)
	j.must(j.ctx, j.t, "halt", "n3")
	j.must(j.ctx, j.t, "add", "n4", "agent", "--server", j.server, "--token", j.token,
		"--with-node-id", "--node-label", "site=mast-7", "--node-external-ip", "198.51.100.7", "--node-taint", "reserved=yes:NoSchedule")
	eventually(j.ctx, j.t, "n4 tells that it waits", func() error {
		if log := j.must(j.ctx, j.t, "logs", "n4"); !strings.Contains(log, "waiting for the server") {
			return fmt.Errorf("its log is:\n%s", log)
		}
		if r := j.in(j.ctx, "n4", "limpet", "status"); !strings.Contains(r.text(), "waiting for the server at "+j.server) {
			return fmt.Errorf("limpet status says: %s", r.text())
		}
		return nil
	})
	if disk := j.disk("n4"); strings.Contains(disk, dataDir+"/agent/tls") || strings.Contains(disk, "identity.key") {
		j.t.Errorf("it did not wait before writing:\n%s", disk)
	}
	j.must(j.ctx, j.t, "start", node1)
	nodes := awaitSet(j.ctx, j.t, j.client.CoreV1().Nodes(), metav1.ListOptions{LabelSelector: "site=mast-7"}, func(list []*corev1.Node) string {
		if len(list) == 1 && nodeIs(list[0], corev1.ConditionTrue) {
			return ""
		}
		return fmt.Sprintf("%d nodes with the label, or not Ready", len(list))
	})
	n4 := nodes[0]
	if !strings.HasPrefix(n4.Name, "n4-") || len(n4.Name) != len("n4-")+8 {
		j.t.Errorf("its name is %s", n4.Name)
	}
	if got := externalIP(n4); got != "198.51.100.7" {
		j.t.Errorf("its external address is %q", got)
	}
	// Its kubelet has got a certificate with that address, too.
	eventually(j.ctx, j.t, "the kubelet of "+n4.Name, func() error {
		return j.client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes", n4.Name, "proxy/healthz").Do(j.ctx).Error()
	})
	for _, taint := range n4.Spec.Taints {
		if taint.Key == "reserved" && taint.Value == "yes" && taint.Effect == corev1.TaintEffectNoSchedule {
			return
		}
	}
	j.t.Errorf("its taints are %+v", n4.Spec.Taints)
}

func externalIP(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeExternalIP {
			return a.Address
		}
	}
	return ""
}

// serverKilled ends the server the hard way: pods on n2 do not notice.
func (j joinTest) serverKilled() {
	web, err := j.pods().Get(j.ctx, "web", metav1.GetOptions{})
	j.ok(err)
	j.must(j.ctx, j.t, "stop", node1, "KILL")
	j.node(j.t, "n2").mustFetch(j.ctx, j.t, web.Status.PodIP+":"+httpPortText, "/version")
	j.must(j.ctx, j.t, "start", node1)
	eventually(j.ctx, j.t, "exec on n2 after the server's return", func() error {
		_, err := j.tryExec("shell", "true")
		return err
	})
	again, err := j.pods().Get(j.ctx, "web", metav1.GetOptions{})
	j.ok(err)
	if again.UID != web.UID || again.Status.ContainerStatuses[0].RestartCount != 0 {
		j.t.Errorf("the pod on n2 was disturbed: %s", describe(again))
	}
	j.ready("n2")
}

// rotated: agents need no token once they have joined; others need the new one.
func (j joinTest) rotated() {
	j.mustIn(j.ctx, j.t, node1, "limpet", "token", "rotate")
	j.must(j.ctx, j.t, "stop", "n2")
	j.must(j.ctx, j.t, "start", "n2") // with the old token in its file
	j.statusOfAgent("n2")
	j.must(j.ctx, j.t, "reboot", "n3")
	if r := j.in(j.ctx, "n3", "limpet", "agent", "--server", j.server, "--token", j.token); r.code != 22 {
		j.t.Errorf("the old token: exit code %d: %s", r.code, r.text())
	}
}

// dataLost removes the data directory of every agent. The identity key, which is
// elsewhere, gives them their names back.
func (j joinTest) dataLost() {
	fresh := j.mustIn(j.ctx, j.t, node1, "cat", dataDir+"/server/token")
	before := map[string]types.UID{}
	nodes, err := j.client.CoreV1().Nodes().List(j.ctx, metav1.ListOptions{})
	j.ok(err)
	for _, n := range nodes.Items {
		before[n.Name] = n.UID
	}
	for _, machine := range []string{"n2", "n4"} {
		j.must(j.ctx, j.t, "halt", machine)
		disk := filepath.Join(j.dir, machine, "disk")
		j.ok(os.RemoveAll(filepath.Join(disk, dataDir)))
		j.ok(os.WriteFile(filepath.Join(disk, "etc", "limpet", "token"), []byte(fresh), 0o600))
		if machine == "n4" {
			j.must(j.ctx, j.t, "reboot", machine) // its old token is on its command line: refused
			j.ended(machine, 22)
			j.must(j.ctx, j.t, "start", machine, "--token=", "--token-file", "/etc/limpet/token")
			continue
		}
		j.must(j.ctx, j.t, "reboot", machine)
	}
	for name, uid := range before {
		if n := j.ready(name); n.UID != uid {
			j.t.Errorf("node %s is another one now", name)
		}
	}
	j.statusOfAgent("n2")
	log := j.must(j.ctx, j.t, "logs", "n2")
	if !strings.Contains(log, "the server has accepted this node") {
		j.t.Error("n2 did not join again")
	}
	nodes, err = j.client.CoreV1().Nodes().List(j.ctx, metav1.ListOptions{})
	j.ok(err)
	if len(nodes.Items) != len(before) {
		j.t.Errorf("there are %d nodes now, and were %d", len(nodes.Items), len(before))
	}
}
