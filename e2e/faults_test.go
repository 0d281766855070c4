package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const node2 = "n2" // an agent

// TestFaultsOfNodes kills limpet on the server and on the agent, and takes each
// node's data directory away, under pods on both nodes that clients call.
func TestFaultsOfNodes(t *testing.T) {
	t.Parallel()
	s := newSpace(t, ownCluster(t, 2, "--nodes", "2"), 7*time.Minute)
	clients := spreadService(s, "")
	t.Run("kill -9 in turn", func(t *testing.T) {
		s := s.with(t)
		for i, victim := range []string{node2, node1, node2, node1} {
			killed(s, clients, victim, fmt.Sprintf("fresh-%d", i))
		}
	})
	t.Run("agent loses its data directory", func(t *testing.T) {
		dataLost(s.with(t), clients, node2, dataDir)
	})
	t.Run("server loses the node's part of its data directory", func(t *testing.T) {
		dataLost(s.with(t), clients, node1, dataDir+"/agent")
	})
}

// TestFullDiskOnAgent leaves an agent no byte: its pods serve on, limpet starts
// again, and all is as before once there is space.
func TestFullDiskOnAgent(t *testing.T) {
	t.Parallel()
	s := newSpace(t, ownCluster(t, 2, "--nodes", "2", "--node-fs-size", "1500M",
		"--", "--kubelet-arg", "eviction-pressure-transition-period=10s"), 6*time.Minute)
	// The kubelet evicts ordinary pods from a full disk, which is its work; critical ones it must leave alone.
	clients := spreadService(s, "system-node-critical")
	many := deployment("many", 12, shellSpec("")) // containerd stores the state of each again when it starts
	many.Spec.Template.Spec.PriorityClassName = "system-node-critical"
	many.Spec.Template.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node2}
	s.deploy(many)
	loads := sendAll(s, clients)
	before := footprints(s)
	fillDisk(s, node2)
	awaitCondition(s, node2, corev1.NodeDiskPressure, corev1.ConditionTrue)
	s.must(s.ctx, t, "stop", node2, "KILL")
	fillDisk(s, node2) // the kubelet has found something to remove
	last := heartbeat(must[*corev1.Node](s)(s.client.CoreV1().Nodes().Get(s.ctx, node2, metav1.GetOptions{})))
	start := time.Now()
	s.must(s.ctx, t, "start", node2)
	awaitHeartbeat(s, node2, last)
	t.Logf("the agent with a full disk reported again %s after its start", time.Since(start).Round(time.Millisecond))
	awaitCondition(s, node2, corev1.NodeDiskPressure, corev1.ConditionTrue)
	unharmed(s, loads, "full disk", clients)
	sameFootprints(s, before)

	s.remove(t, node2, dataDir+"/ballast")
	awaitCondition(s, node2, corev1.NodeDiskPressure, corev1.ConditionFalse)
	s.start(pinned(pod("after", httpdSpec()), node2))
	awaitContent(s, node2)
}

// fillDisk leaves a node no block of its disk.
func fillDisk(s *space, node string) {
	s.t.Helper()
	for _, size := range []string{"64k", "4k"} {
		r := s.in(s.ctx, node, "dd", "if=/dev/zero", "of="+dataDir+"/ballast", "bs="+size, "oflag=append", "conv=notrunc")
		if !strings.Contains(r.stderr, "No space left") {
			s.t.Fatalf("the disk is not full: %s", r.text())
		}
	}
}

// pinned puts a pod onto a node, by way of the scheduler.
func pinned(p *corev1.Pod, node string) *corev1.Pod {
	p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	return p
}

// spreadService is a Service with a pod on either node, and clients: a pod on
// either node, and a machine on the LAN by the NodePort of either node.
func spreadService(s *space, priorityClass string) []client {
	s.t.Helper()
	svc := service("web")
	svc.Spec.Type = corev1.ServiceTypeNodePort
	svc = s.createService(svc)
	d := deployment("web", 2, httpdSpec())
	d.Spec.Template.Spec.PriorityClassName = priorityClass
	d.Spec.Template.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		LabelSelector: &metav1.LabelSelector{MatchLabels: app("web")}, TopologyKey: corev1.LabelHostname,
		MaxSkew: 1, WhenUnsatisfiable: corev1.DoNotSchedule,
	}}
	s.deploy(d)
	var clients []client
	for _, node := range []string{node1, node2} {
		box := pinned(pod(boxOn(node), shellSpec("")), node)
		box.Spec.PriorityClassName = priorityClass
		clients = append(clients,
			client{podPlace(s.t, s.start(box)), "http://" + svc.Spec.ClusterIP + "/version"},
			client{s.node(s.t, lan), fmt.Sprintf("http://%s:%d/version", s.nodeIP(s.t, node), svc.Spec.Ports[0].NodePort)})
	}
	for _, c := range clients {
		eventually(s.ctx, s.t, "the Service from "+c.from.name, func() error {
			for range 10 { // both pods
				if _, err := get(s.ctx, c.from.http(), c.url); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return clients
}

func boxOn(node string) string { return "box-" + node }

func sendAll(s *space, clients []client) []*traffic {
	var loads []*traffic
	for _, c := range clients {
		loads = append(loads, c.from.sendTraffic(s.ctx, c.url))
	}
	return loads
}

// unharmed ends the traffic; not a single request may have failed.
func unharmed(s *space, loads []*traffic, what string, clients []client) {
	s.t.Helper()
	for i, load := range loads {
		load.mustBeUnharmed(s.t, what+", from "+clients[i].from.name+" to "+clients[i].url)
	}
}

// sameFootprints fails if a container of before was restarted or replaced.
func sameFootprints(s *space, before map[string]footprint) {
	s.t.Helper()
	after := footprints(s)
	for name, was := range before {
		if is := after[name]; is != was {
			s.t.Errorf("pod %s was touched: %+v, before %+v", name, is, was)
		}
	}
}

// killed kills limpet on one node and starts it again; meanwhile no request may
// fail and no container may be touched, and afterwards the node does its work.
func killed(s *space, clients []client, victim, fresh string) {
	s.t.Helper()
	before := footprints(s)
	loads := sendAll(s, clients)
	s.must(s.ctx, s.t, "stop", victim, "KILL")
	time.Sleep(3 * time.Second) // pods serve without limpet
	start := time.Now()
	s.must(s.ctx, s.t, "start", victim)
	awaitContent(s, victim)
	s.t.Logf("limpet on %s: all was well %s after the start", victim, time.Since(start).Round(time.Millisecond))

	p := pod(fresh, httpdSpec())
	p.Labels = app("web")
	p = s.start(pinned(p, victim))
	for _, c := range clients { // kube-proxy of either node knows the new pod
		eventually(s.ctx, s.t, "the new pod gets requests from "+c.from.name+" by "+c.url, func() error {
			for range 20 {
				if got, err := get(s.ctx, c.from.http(), strings.TrimSuffix(c.url, "version")); err == nil && strings.Contains(got, "pod="+fresh+"\n") {
					return nil
				}
			}
			return fmt.Errorf("none of 20 requests went to it")
		})
	}
	if out := s.sh(boxOn(victim), "echo works"); out != "works" {
		s.t.Errorf("exec on %s after the start: %q", victim, out)
	}
	unharmed(s, loads, "limpet killed on "+victim, clients)
	sameFootprints(s, before)
	s.ok(s.pods().Delete(s.ctx, p.Name, metav1.DeleteOptions{}))
	awaitGone(s.ctx, s.t, s.pods(), p.Name)
}

// dataLost boots a node without a directory that it had: it joins again as the
// same node, and its pods come back by themselves.
func dataLost(s *space, clients []client, victim, dir string) {
	s.t.Helper()
	node := must[*corev1.Node](s)(s.client.CoreV1().Nodes().Get(s.ctx, victim, metav1.GetOptions{}))
	pods := s.selected(2, app("web"))
	s.must(s.ctx, s.t, "halt", victim)
	s.ok(os.RemoveAll(filepath.Join(s.dir, victim, "disk", dir)))
	start := time.Now()
	s.must(s.ctx, s.t, "reboot", victim)
	s.must(s.ctx, s.t, "load-images", victim, env.images) // they went, too
	s.ok(s.connect(s.ctx))
	await(s.ctx, s.t, s.client.CoreV1().Nodes(), victim, func(now *corev1.Node) string {
		switch {
		case now.UID != node.UID:
			return "it is another Node now"
		case now.Status.NodeInfo.BootID == node.Status.NodeInfo.BootID:
			return "it has not reported since the boot"
		case conditionOf(now, corev1.NodeReady).Status != corev1.ConditionTrue:
			return "it is not Ready: " + conditionOf(now, corev1.NodeReady).Message
		}
		return ""
	})
	s.t.Logf("%s was Ready %s after the boot", victim, time.Since(start).Round(time.Millisecond))
	awaitSet(s.ctx, s.t, s.pods(), metav1.ListOptions{LabelSelector: labels.FormatLabels(app("web"))}, func(list []*corev1.Pod) string {
		return restarted(list, pods, victim)
	})
	s.t.Logf("its pods served again %s after the boot", time.Since(start).Round(time.Millisecond))
	await(s.ctx, s.t, s.pods(), boxOn(victim), podReady)
	for _, c := range clients {
		if c.from.name != lan {
			continue // the pods' networks are new ones
		}
		eventually(s.ctx, s.t, "the Service by "+c.url, func() error {
			_, err := get(s.ctx, c.from.http(), c.url)
			return err
		})
	}
	awaitContent(s, victim)
}

// restarted says what is lacking until the pods of before are all there and Ready,
// those on the victim with a new container.
func restarted(list, before []*corev1.Pod, victim string) string {
	for _, old := range before {
		i := slices.IndexFunc(list, func(p *corev1.Pod) bool { return p.UID == old.UID })
		if i < 0 {
			return "pod " + old.Name + " was replaced"
		}
		if lack := podReady(list[i]); lack != "" {
			return old.Name + ": " + lack
		}
		if old.Spec.NodeName == victim && containerID(list[i], "main") == containerID(old, "main") {
			return old.Name + " is still described as before the boot"
		}
	}
	return ""
}

func conditionOf(n *corev1.Node, kind corev1.NodeConditionType) corev1.NodeCondition {
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return corev1.NodeCondition{Type: kind, Status: corev1.ConditionUnknown, Message: "no such condition"}
}

func awaitCondition(s *space, node string, kind corev1.NodeConditionType, status corev1.ConditionStatus) {
	s.t.Helper()
	start := time.Now()
	await(s.ctx, s.t, s.client.CoreV1().Nodes(), node, func(n *corev1.Node) string {
		if c := conditionOf(n, kind); c.Status != status {
			return fmt.Sprintf("%s is %s: %s", kind, c.Status, c.Message)
		}
		return ""
	})
	s.t.Logf("%s of %s was %s after %s", kind, node, status, time.Since(start).Round(time.Millisecond))
}

func heartbeat(n *corev1.Node) metav1.Time { return conditionOf(n, corev1.NodeReady).LastHeartbeatTime }

// awaitHeartbeat waits until a node has said that it is Ready again. Its times
// have whole seconds, so they are compared with each other only.
func awaitHeartbeat(s *space, node string, last metav1.Time) {
	s.t.Helper()
	await(s.ctx, s.t, s.client.CoreV1().Nodes(), node, func(n *corev1.Node) string {
		if c := conditionOf(n, corev1.NodeReady); c.Status != corev1.ConditionTrue || !last.Before(&c.LastHeartbeatTime) {
			return fmt.Sprintf("Ready is %s, last said at %s: %s", c.Status, c.LastHeartbeatTime, c.Message)
		}
		return ""
	})
}

// awaitContent waits until limpet of a node says that all is well.
func awaitContent(s *space, node string) {
	s.t.Helper()
	eventually(s.ctx, s.t, "limpet status on "+node, func() error {
		if r := s.in(s.ctx, node, "limpet", "status"); r.code != 0 {
			return fmt.Errorf("exit status %s: %s", strconv.Itoa(r.code), r.text())
		}
		return nil
	})
}
