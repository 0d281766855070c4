package nodectl

import (
	"bytes"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpetio/limpet/internal/noderecord"
)

var now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func node(name string, ready corev1.ConditionStatus, change ...func(*corev1.Node)) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now.Add(-50 * time.Hour))}}
	n.Status.NodeInfo.KubeletVersion = "v1.37.2"
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}, {Type: corev1.NodeInternalIP, Address: "10.0.0.7"}}
	n.Status.Conditions = []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse},
		{Type: corev1.NodeReady, Status: ready, Reason: "Why", Message: "so and\nso", LastHeartbeatTime: metav1.NewTime(now.Add(-10 * time.Minute))},
	}
	for _, c := range change {
		c(&n)
	}
	return n
}

func TestTable(t *testing.T) {
	t.Parallel()
	label := func(names ...string) func(*corev1.Node) {
		return func(n *corev1.Node) {
			n.Labels = map[string]string{}
			for _, name := range names {
				n.Labels[rolePrefix+name] = "true"
			}
		}
	}
	nodes := []corev1.Node{
		node("shop-1", corev1.ConditionTrue, func(n *corev1.Node) { n.Spec.Unschedulable = true }),
		node("shop-2", corev1.ConditionUnknown),
		node("shop-3", corev1.ConditionFalse, label("gpu")),
		node("shop-4", corev1.ConditionFalse, func(n *corev1.Node) { n.Status = corev1.NodeStatus{Conditions: n.Status.Conditions} }),
		node("shop-5", corev1.ConditionTrue, func(n *corev1.Node) {
			n.Status.Conditions[0].Status = corev1.ConditionTrue
			n.Status.Conditions[0].Reason, n.Status.Conditions[0].Message = "KubeletHasInsufficientMemory", "no memory"
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "203.0.113.9"})
		}),
		node("mast", corev1.ConditionTrue, label("control-plane")),
	}
	leases := []coordinationv1.Lease{{
		ObjectMeta: metav1.ObjectMeta{Name: "shop-2"},
		Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: now.Add(-3 * time.Minute)}},
	}}
	records := []corev1.Secret{
		*noderecord.Record{Node: "shop-2", RejoinUntil: now.Add(time.Hour)}.Secret(),
		*noderecord.Record{Node: "shop-3", RejoinUntil: now.Add(-time.Hour)}.Secret(),
	}
	var out bytes.Buffer
	if err := printTable(&out, table(nodes, leases, records, now), now); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	want := []string{
		"NAME STATE ROLE ADDRESS AGE VERSION LAST SEEN",
		"mast Ready server 10.0.0.7 2d2h v1.37.2 now",
		"shop-1 Ready,cordoned agent 10.0.0.7 2d2h v1.37.2 now",
		"shop-2 Unreachable agent 10.0.0.7 2d2h v1.37.2 3m ago",
		"shop-3 NotReady agent,gpu 10.0.0.7 2d2h v1.37.2 10m ago",
		"shop-4 Joining agent - 2d2h - never",
		"shop-5 Ready agent 10.0.0.7,203.0.113.9 2d2h v1.37.2 now",
		"shop-2: another machine may take the name until " + clock(now.Add(time.Hour)),
		"shop-3: Ready (Why): so and so",
		"shop-5: MemoryPressure (KubeletHasInsufficientMemory): no memory",
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), out.String())
	}
	for i, line := range lines {
		if got := strings.Join(strings.Fields(line), " "); got != want[i] {
			t.Errorf("line %d: %q, want %q", i, got, want[i])
		}
	}
}

func TestProgressTellsOnce(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &progress{out: &out, total: 1, begun: map[string]bool{}, said: map[string]bool{}}
	web := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
	for range 3 { // as kubectl's package does while a disruption budget holds it up
		p.started(web)
		if _, err := p.Write([]byte("cannot evict: the budget\n")); err != nil {
			t.Fatal(err)
		}
	}
	p.finished(web)
	if want := "Ending shop/web\ncannot evict: the budget\n1 of 1: shop/web has ended\n"; out.String() != want {
		t.Errorf("told %q, want %q", out.String(), want)
	}
}

func TestAllowedRepairsTheRecord(t *testing.T) {
	t.Parallel()
	s := noderecord.Record{Node: "shop-1", Fingerprint: "ab", Joined: now}.Secret()
	s.ResourceVersion = "7"
	s.Data["node"] = []byte("another")
	got := allowed("shop-1", s, now.Add(time.Hour))
	if r := noderecord.FromSecret("shop-1", got); got.ResourceVersion != "7" || r != (noderecord.Record{Node: "shop-1", RejoinUntil: now.Add(time.Hour)}) {
		t.Errorf("%+v, at %s", r, got.ResourceVersion)
	}
}

func TestConnectSaysWhereItRuns(t *testing.T) {
	t.Parallel()
	c := Control{Out: &bytes.Buffer{}}
	c.Config.DataDir = t.TempDir()
	if err := c.List(t.Context(), false); err == nil || !strings.Contains(err.Error(), "no server of limpet has run here") {
		t.Errorf("error %v", err)
	}
}
