package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// dnsCluster is three nodes, of which n3 runs no DNS server, with a pod on each.
type dnsCluster struct {
	*space
	pods map[string]*corev1.Pod
}

// TestNodeDNS: every node's pods ask their own node's DNS server, whatever
// happens to the others; those of a node without one ask the others.
func TestNodeDNS(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, alone) // every question is to be answered within a second
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	join := []string{"--server", "https://" + c.nodeIP(t, node1) + ":6443", "--token",
		strings.TrimSpace(c.mustIn(ctx, t, node1, "cat", dataDir+"/server/token"))}
	c.must(ctx, t, append([]string{"add", "n2", "agent"}, join...)...)
	c.must(ctx, t, append([]string{"add", "n3", "agent", "--disable-node-local-dns"}, join...)...)
	for _, n := range []string{"n2", "n3"} {
		c.must(ctx, t, "wait", n, "60")
		c.must(ctx, t, "load-images", n, env.images)
	}
	s := newSpace(t, c, 5*time.Minute)
	d := &dnsCluster{space: s, pods: map[string]*corev1.Pod{}}
	for _, n := range []string{node1, "n2", "n3"} {
		p := pod("on-"+n, shellSpec(""))
		p.Spec.NodeName = n
		d.pods[n] = s.start(p)
	}

	t.Run("endpoints", func(t *testing.T) { d.with(t).endpoints(node1, "n2") })
	t.Run("own node first", func(t *testing.T) { d.with(t).ownNodeFirst() })
	t.Run("without a server of its own", func(t *testing.T) { d.with(t).withoutOwn() })
	t.Run("configuration reaches all", func(t *testing.T) { d.with(t).configured() })
	t.Run("forged annotation", func(t *testing.T) { d.with(t).forged() })
	t.Run("server stops", func(t *testing.T) { d.with(t).serverStops() })
	t.Run("cut link", func(t *testing.T) { d.with(t).cutLink() })
	t.Run("agent stops", func(t *testing.T) { d.with(t).agentStops() })
}

func (d *dnsCluster) with(t *testing.T) *dnsCluster {
	return &dnsCluster{space: d.space.with(t), pods: d.pods}
}

// endpoints waits until kube-dns leads to exactly these nodes, each hinted for itself.
func (d *dnsCluster) endpoints(nodes ...string) {
	d.t.Helper()
	var want []string
	for _, n := range nodes {
		want = append(want, n+" "+d.nodeIP(d.t, n)+" for "+n)
	}
	awaitSet(d.ctx, d.t, d.client.DiscoveryV1().EndpointSlices("kube-system"), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kube-dns"},
		func(list []*discoveryv1.EndpointSlice) string {
			var got []string
			for _, es := range list {
				for _, e := range es.Endpoints {
					hint := "nobody"
					if e.Hints != nil && len(e.Hints.ForNodes) == 1 {
						hint = e.Hints.ForNodes[0].Name
					}
					got = append(got, fmt.Sprintf("%s %s for %s", *e.NodeName, strings.Join(e.Addresses, ","), hint))
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				return fmt.Sprintf("endpoints %q, want %q", got, want)
			}
			return ""
		})
}

// asked is how many questions the DNS server of a node has been asked, by its own metrics.
func (d *dnsCluster) asked(node string) int {
	d.t.Helper()
	body, err := d.node(d.t, node).fetch(d.ctx, net.JoinHostPort(d.nodeIP(d.t, node), "9153"), "/metrics")
	if err != nil {
		d.t.Fatal(err)
	}
	total := 0.0
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "coredns_dns_requests_total{") {
			v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " ")+1:]), 64)
			if err != nil {
				d.t.Fatalf("metrics of %s: %q: %v", node, line, err)
			}
			total += v
		}
	}
	return int(total)
}

// ask asks n times from the pod on a node; every question must be answered
// within a second. It is put again once, from another port: for half a minute
// the kernel sends what comes from a port where it has sent the last question from there,
// also if that node is cut off by now.
func (d *dnsCluster) ask(node string, n int) error {
	r := podPlace(d.t, d.pods[node]).resolver(dnsAddress)
	once := func() error {
		ctx, cancel := context.WithTimeout(d.ctx, time.Second)
		defer cancel()
		got, err := r.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
		if err == nil && !slices.Equal(got, []string{"10.43.0.1"}) {
			err = fmt.Errorf("the answer is %v", got)
		}
		return err
	}
	for i := range n {
		err := once()
		if err != nil {
			d.t.Logf("question %d from the pod on %s is put again: %v", i+1, node, err)
			err = once()
		}
		if err != nil {
			return fmt.Errorf("question %d from the pod on %s: %w", i+1, node, err)
		}
	}
	return nil
}

const questions = 40 // each is two: A and AAAA

func (d *dnsCluster) mustAsk(node string, n int) {
	d.t.Helper()
	if err := d.ask(node, n); err != nil {
		d.t.Error(err)
	}
}

// eventuallyAsks waits until a pod is answered.
func (d *dnsCluster) eventuallyAsks(node string) time.Duration {
	d.t.Helper()
	start := time.Now()
	eventually(d.ctx, d.t, "DNS of the pod on "+node, func() error { return d.ask(node, 1) })
	return time.Since(start).Round(time.Millisecond)
}

// ownNodeFirst counts who is asked.
func (d *dnsCluster) ownNodeFirst() {
	for _, n := range []string{node1, "n2"} {
		own := n
		// kube-proxy has the last endpoint a moment after the API has.
		eventually(d.ctx, d.t, "the pod on "+n+" asks its own node only", func() error {
			before := map[string]int{node1: d.asked(node1), "n2": d.asked("n2")}
			if err := d.ask(n, questions); err != nil {
				return err
			}
			for _, server := range []string{node1, "n2"} {
				asked := d.asked(server) - before[server]
				if server == own && asked < questions || server != own && asked >= questions/4 { // limpet itself asks now and then
					return fmt.Errorf("the server of %s was asked %d times", server, asked)
				}
			}
			return nil
		})
	}
}

// withoutOwn: n3 has no server and spreads over all, as soon as they know that it is a node.
func (d *dnsCluster) withoutOwn() {
	d.eventuallyAsks("n3")
	before := map[string]int{node1: d.asked(node1), "n2": d.asked("n2")}
	d.mustAsk("n3", questions)
	for n, b := range before {
		if asked := d.asked(n) - b; asked == 0 {
			d.t.Errorf("the pod on n3 never asked the server of %s", n)
		}
	}
}

// configured writes a zone into coredns-custom and asks every node's server for it.
func (d *dnsCluster) configured() {
	maps := d.client.CoreV1().ConfigMaps("kube-system")
	custom := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "coredns-custom"}, Data: map[string]string{
		"shop.server": "shop.example:53 {\n  hosts {\n    192.0.2.7 till.shop.example\n  }\n}\n"}}
	start := time.Now()
	must[*corev1.ConfigMap](d.space)(maps.Create(d.ctx, custom, metav1.CreateOptions{}))
	for _, n := range []string{node1, "n2", "n3"} {
		d.resolves(podPlace(d.t, d.pods[n]), "till.shop.example.", "192.0.2.7")
	}
	d.t.Logf("the zone is answered on every node %s after the ConfigMap was written", time.Since(start).Round(time.Millisecond))
	if err := maps.Delete(d.ctx, custom.Name, metav1.DeleteOptions{}); err != nil {
		d.t.Error(err)
	}
}

// forged is what a stolen node might try: to lead others' questions elsewhere.
func (d *dnsCluster) forged() {
	patch := func(value string) {
		d.t.Helper()
		d.must(d.ctx, d.t, "kubectl", "annotate", "node", "n3", "--overwrite", "limpet.io/dns"+value)
	}
	patch(`={"addresses":["` + d.nodeIP(d.t, node1) + `"],"port":10053}`) // n1's
	patch(`={"addresses":["203.0.113.66"],"port":53}`)                    // nobody's
	time.Sleep(2 * time.Second)
	d.endpoints(node1, "n2")
	patch(`-`)
}

// serverStops: the agents' pods notice nothing, and those of the server's node are handed over.
func (d *dnsCluster) serverStops() {
	stop := d.run(d.ctx, "stop", node1, "TERM")
	if stop.code != 0 {
		d.t.Fatal(stop.text())
	}
	d.t.Logf("limpet on n1 ended %s after SIGTERM", stop.took.Round(time.Millisecond))
	for _, n := range []string{node1, "n2", "n3"} {
		d.mustAsk(n, questions)
	}
	d.must(d.ctx, d.t, "start", node1)
	d.must(d.ctx, d.t, "wait", node1, "60")
	d.endpoints(node1, "n2")
	d.ownNodeFirst() // n1 takes its pods back
}

// cutLink separates n2 from everybody, on the side of its switch.
func (d *dnsCluster) cutLink() {
	d.mustIn(d.ctx, d.t, lan, "ip", "link", "set", "v-n2", "down")
	d.mustAsk("n2", questions)
	time.Sleep(5 * time.Second)
	d.mustAsk("n2", questions)
	d.mustAsk(node1, questions)
	d.mustIn(d.ctx, d.t, lan, "ip", "link", "set", "v-n2", "up")
	back := time.Now()
	d.mustAsk("n2", questions)
	await(d.ctx, d.t, d.client.CoordinationV1().Leases("kube-node-lease"), "n2", func(l *coordinationv1.Lease) string {
		if l.Spec.RenewTime == nil || l.Spec.RenewTime.Time.Before(back) {
			return "not renewed since the link came back"
		}
		return ""
	})
	d.endpoints(node1, "n2")
	d.mustAsk("n2", questions)
}

// follows waits until kube-proxy of a node sees what changes. After the server has
// started again it may take its watches a while to be taken up: a server refuses
// everything before it knows its roles, and kube-proxy asks again later and later.
func (d *dnsCluster) follows(node string) {
	d.t.Helper()
	p := pod("follow", httpdSpec())
	p.Labels, p.Spec.NodeName = app("follow"), node1
	d.start(p)
	url := "http://" + d.createService(service("follow")).Spec.ClusterIP + "/version"
	eventually(d.ctx, d.t, "kube-proxy of "+node+" to see a new Service", func() error {
		_, err := get(d.ctx, podPlace(d.t, d.pods[node]).http(), url)
		return err
	})
}

// agentStops: an orderly stop hands over; a crash cannot, until limpet runs again.
func (d *dnsCluster) agentStops() {
	d.follows("n2")
	d.must(d.ctx, d.t, "stop", "n2", "TERM")
	d.endpoints(node1)
	// The rules do not change any more: who is answered now has been handed over.
	d.t.Logf("after the stop: answered by another node within %s", d.eventuallyAsks("n2"))
	d.mustAsk("n2", questions)
	d.must(d.ctx, d.t, "start", "n2")
	d.endpoints(node1, "n2")
	d.mustAsk("n2", questions)

	d.must(d.ctx, d.t, "stop", "n2", "KILL")
	d.must(d.ctx, d.t, "start", "n2")
	d.t.Logf("after a crash of the agent: DNS again %s after the start", d.eventuallyAsks("n2"))
}
