package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpetio/limpet/internal/noderecord"
)

// exitNameTaken is the exit code of an agent whose name is another machine's.
const exitNameTaken = 28

// TestNodes: a node's name belongs to its machine, until an administrator says
// otherwise; and the commands by which they do.
func TestNodes(t *testing.T) {
	t.Parallel()
	s := newSpace(t, ownCluster(t, 4, "--nodes", "2"), 7*time.Minute)
	c := s.cluster
	n := nodeTest{s, []string{
		"--server", "https://" + c.nodeIP(t, node1) + ":6443",
		"--token", strings.TrimSpace(c.mustIn(s.ctx, t, node1, "cat", dataDir+"/server/token")),
	}}

	t.Run("list", func(t *testing.T) { n.with(t).list() })
	t.Run("nonsense is refused", func(t *testing.T) { n.with(t).nonsense() })
	t.Run("drain", func(t *testing.T) { n.with(t).drain() })
	t.Run("theft", func(t *testing.T) { n.with(t).theft() })
	t.Run("rejoin", func(t *testing.T) { n.with(t).rejoin() })
	t.Run("remove", func(t *testing.T) { n.with(t).remove() })
}

// nodeTest has the server n1 and the agent n2; n3 and n4 are other machines.
type nodeTest struct {
	*space
	join []string // flags with which a machine joins
}

func (n nodeTest) with(t *testing.T) nodeTest { return nodeTest{n.space.with(t), n.join} }

// limpet runs limpet node on the server.
func (n nodeTest) limpet(args ...string) result {
	return n.in(n.ctx, node1, append([]string{"limpet", "node"}, args...)...)
}

// says runs limpet node, which must exit with a code and say something.
func (n nodeTest) says(code int, text string, args ...string) {
	n.t.Helper()
	if r := n.limpet(args...); r.code != code || !strings.Contains(r.text(), text) {
		n.t.Errorf("limpet node %s: exit code %d, want %d and a text that says %q:\n%s", strings.Join(args, " "), r.code, code, text, r.text())
	}
}

// agent starts limpet agent on another machine, with the name of n2.
func (n nodeTest) agent(machine string) {
	n.t.Helper()
	n.must(n.ctx, n.t, append([]string{"add", machine, "agent", "--node-name", "n2"}, n.join...)...)
}

// refused waits until the agent of a machine has ended because its name is taken.
func (n nodeTest) refused(machine string) {
	n.t.Helper()
	eventually(n.ctx, n.t, "the agent on "+machine+" is refused", func() error {
		// It may end, and status fail, between two looks.
		for _, line := range strings.Split(n.run(n.ctx, "status").stdout, "\n") {
			if strings.HasPrefix(line, machine+" ") && strings.Contains(line, fmt.Sprintf("(status %d)", exitNameTaken)) {
				return nil
			}
		}
		return fmt.Errorf("no exit code %d yet", exitNameTaken)
	})
	log := n.must(n.ctx, n.t, "logs", machine)
	if !strings.Contains(log, "n2 belongs to another machine") || !strings.Contains(log, "limpet node rejoin n2") {
		n.t.Errorf("the agent on %s does not say why it ended, and what to do:\n%s", machine, log)
	}
	if r := n.in(n.ctx, machine, "ls", dataDir+"/agent/tls", dataDir+"/agent/cred"); r.code == 0 {
		n.t.Errorf("the agent on %s left on its disk:\n%s", machine, r.stdout)
	}
}

// readyAt waits until Node n2 is Ready and has the address of a machine.
func (n nodeTest) readyAt(machine string) *corev1.Node {
	n.t.Helper()
	want := n.nodeIP(n.t, machine)
	return await(n.ctx, n.t, n.client.CoreV1().Nodes(), "n2", func(node *corev1.Node) string {
		if !nodeIs(node, corev1.ConditionTrue) {
			return fmt.Sprintf("not Ready: %+v", node.Status.Conditions)
		}
		for _, a := range node.Status.Addresses {
			if a.Address == want {
				return ""
			}
		}
		return fmt.Sprintf("addresses %+v, want %s", node.Status.Addresses, want)
	})
}

func nodeIs(node *corev1.Node, ready corev1.ConditionStatus) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == ready
		}
	}
	return false
}

func (n nodeTest) list() {
	n.readyAt("n2")
	r := n.limpet("list")
	for _, want := range [][]string{{node1, "Ready", "server", n.nodeIP(n.t, node1)}, {"n2", "Ready", "agent", n.nodeIP(n.t, "n2")}} {
		if !strings.Contains(strings.Join(strings.Fields(r.stdout), " "), strings.Join(want, " ")) {
			n.t.Errorf("list lacks %v:\n%s", want, r.text())
		}
	}
	var rows []struct {
		Name, State string
		Roles       []string
		LastSeen    time.Time
	}
	r = n.limpet("list", "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &rows); err != nil || len(rows) != 2 {
		n.t.Fatalf("list -o json: %v: %s", err, r.text())
	}
	if got := rows[1]; got.Name != "n2" || got.State != "Ready" || got.Roles[0] != "agent" || time.Since(got.LastSeen).Abs() > time.Minute {
		n.t.Errorf("list -o json: %+v", got)
	}
}

func (n nodeTest) nonsense() {
	for _, verb := range []string{"drain", "remove", "rejoin"} {
		n.says(1, "there is no node n22; did you mean n2?", verb, "n22")
	}
	n.says(1, "is the server of this cluster", "remove", node1)
	n.says(1, "is the server of this cluster", "rejoin", node1)
	n.says(2, "not a time from 1m to 24h", "rejoin", "n2", "--ttl", "48h")
	n.says(1, "no server of limpet has run here", "list", "--data-dir", "/nowhere")
}

func (n nodeTest) drain() {
	lone := pod("lone", shellSpec(""))
	lone.Spec.NodeName = "n2"
	n.start(lone)
	n.says(1, "declare no controller", "drain", "n2")
	if node := must[*corev1.Node](n.space)(n.client.CoreV1().Nodes().Get(n.ctx, "n2", metav1.GetOptions{})); node.Spec.Unschedulable {
		n.t.Error("what could not be drained was cordoned")
	}
	n.says(0, n.name+"/lone has ended", "drain", "n2", "--force", "--grace", "1s")
	if _, err := n.pods().Get(n.ctx, "lone", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		n.t.Errorf("the pod is still there: %v", err)
	}
	n.says(0, "Ready,cordoned", "list")
	n.kubectl("uncordon", "n2")
}

// theft: another machine with a valid token asks for the name of one that runs.
func (n nodeTest) theft() {
	box := pod("undisturbed", shellSpec(""))
	box.Spec.NodeName = "n2"
	before := n.start(box)
	node := n.readyAt("n2")
	n.agent("n3")
	n.refused("n3")
	after := must[*corev1.Pod](n.space)(n.pods().Get(n.ctx, box.Name, metav1.GetOptions{}))
	if after.UID != before.UID || after.Status.ContainerStatuses[0].RestartCount != 0 || podReady(after) != "" {
		n.t.Errorf("the node's pod was disturbed: %s", describe(after))
	}
	if now := n.readyAt("n2"); now.UID != node.UID {
		n.t.Error("the node is another one now")
	}
	eventAbout(n.ctx, n.t, n.cluster, "about the theft", func(e *corev1.Event) bool {
		return e.Reason == "NodeNameRefused" && e.InvolvedObject.Name == "n2"
	})
	n.ok(n.pods().Delete(n.ctx, box.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(0))}))
}

// rejoin: the machine is gone, and another one, or itself after its disk was
// wiped, takes its place.
func (n nodeTest) rejoin() {
	node := n.readyAt("n2")
	n.must(n.ctx, n.t, "halt", "n2")
	n.must(n.ctx, n.t, "start", "n3")
	n.refused("n3") // that the node is away changes nothing
	n.says(0, "joins as n2 with a valid token", "rejoin", "n2", "--ttl", "10m")
	n.says(0, "n2: another machine may take the name until", "list")
	n.must(n.ctx, n.t, "start", "n3")
	if now := n.readyAt("n3"); now.UID != node.UID {
		n.t.Error("the node is another one now")
	}
	// Once, that was.
	n.agent("n4")
	n.refused("n4")
	if r := n.limpet("list"); strings.Contains(r.stdout, "may take the name") {
		n.t.Errorf("the permission is still there:\n%s", r.text())
	}
}

func (n nodeTest) remove() {
	n.readyAt("n3")
	n.says(0, "On the machine itself", "remove", "n2")
	_, err := n.client.CoreV1().Nodes().Get(n.ctx, "n2", metav1.GetOptions{})
	_, recordErr := n.client.CoreV1().Secrets(noderecord.Namespace).Get(n.ctx, noderecord.SecretName("n2"), metav1.GetOptions{})
	if !apierrors.IsNotFound(err) || !apierrors.IsNotFound(recordErr) {
		n.t.Errorf("something is left: %v, %v", err, recordErr)
	}
	n.says(1, "there is no node n2", "remove", "n2")
	n.must(n.ctx, n.t, "halt", "n3")

	// The name is free.
	n.must(n.ctx, n.t, "start", "n4")
	n.readyAt("n4")

	// One that is lost is removed without waiting for it.
	n.must(n.ctx, n.t, "halt", "n4")
	await(n.ctx, n.t, n.client.CoreV1().Nodes(), "n2", func(node *corev1.Node) string {
		if nodeIs(node, corev1.ConditionUnknown) {
			return ""
		}
		return fmt.Sprintf("not yet noticed: %+v", node.Status.Conditions)
	})
	n.says(0, "Unreachable", "list")
	n.says(1, "cannot be reached", "drain", "n2")
	begin := time.Now()
	n.says(0, "cannot be reached: its pods are given up", "remove", "n2")
	if took := time.Since(begin); took > 10*time.Second {
		n.t.Errorf("removing a node that is away took %v", took)
	}
	awaitGone(n.ctx, n.t, n.client.CoreV1().Nodes(), "n2")
}
