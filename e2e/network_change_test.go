package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// smallerUnderlay gives the network between the nodes a smaller MTU while they run.
func (m *mesh) smallerUnderlay(t *testing.T) {
	m = m.in(t)
	m.underlayMTU("1400", "1350")
	// The runtime learns of the new MTU a moment after the device has it: a pod
	// that is made in between is one of before.
	eventually(m.ctx, t, "a new pod with the new MTU", func() error {
		p := m.start(m.serverOn("n3", "web-small"))
		defer func() {
			m.ok(m.space.pods().Delete(m.ctx, p.Name, metav1.DeleteOptions{}))
			awaitGone(m.ctx, t, m.space.pods(), p.Name)
		}()
		return podPlace(t, p).within(func() error {
			eth0, err := net.InterfaceByName("eth0")
			if err == nil && eth0.MTU != 1350 {
				err = fmt.Errorf("its MTU is %d", eth0.MTU)
			}
			return err
		})
	})
	// Pods of before, with a larger MTU than what fits: their packets are too
	// long for the way, they are told so, and the stream goes on.
	m.largeStream(m.places[2], m.servers[0].Status.PodIP+":"+httpPortText)
	m.largeStream(m.places[0], m.servers[2].Status.PodIP+":"+httpPortText)
	m.underlayMTU("1500", "1450")
}

// underlayMTU sets the MTU of all machines and waits until the overlay has followed.
func (m *mesh) underlayMTU(mtu, overlay string) {
	m.t.Helper()
	for _, name := range threeNodes {
		m.mustIn(m.ctx, m.t, name, "ip", "link", "set", "eth0", "mtu", mtu)
		m.mustIn(m.ctx, m.t, lan, "ip", "link", "set", "v-"+name, "mtu", mtu)
	}
	begin := time.Now()
	for _, name := range threeNodes {
		eventually(m.ctx, m.t, "the overlay of "+name+" follows", func() error {
			if out := m.mustIn(m.ctx, m.t, name, "ip", "link", "show", "flannel.1"); !strings.Contains(out, " mtu "+overlay+" ") {
				return errors.New(out)
			}
			return nil
		})
	}
	m.t.Logf("the overlay follows the MTU %s within %s", mtu, time.Since(begin).Round(100*time.Millisecond))
}

// cutLink takes a node off the network for 90 seconds. What is on it goes on,
// and afterwards all is as before.
func (m *mesh) cutLink(t *testing.T) {
	m = m.in(t)
	local := service("web")
	local.Name, local.Spec.InternalTrafficPolicy = "web-node", ptr(corev1.ServiceInternalTrafficPolicyLocal)
	local = m.createService(local)
	m.places[1].mustFetch(m.ctx, t, local.Spec.ClusterIP, "/")
	before := m.state("web-n2")

	m.mustIn(m.ctx, t, lan, "ip", "link", "set", "v-n2", "down")
	inside := m.places[1].sendTraffic(m.ctx, "http://"+local.Spec.ClusterIP+"/version")
	others := m.places[0].sendTraffic(m.ctx, "http://"+m.servers[2].Status.PodIP+":"+httpPortText+"/version")
	select {
	case <-time.After(90 * time.Second):
	case <-m.ctx.Done():
		t.Fatal(m.ctx.Err())
	}
	inside.mustBeUnharmed(t, "on the node that was cut off")
	others.mustBeUnharmed(t, "between the others")

	m.mustIn(m.ctx, t, lan, "ip", "link", "set", "v-n2", "up")
	begin := time.Now()
	for i := range m.places {
		m.places[i].mustFetch(m.ctx, t, m.servers[(i+1)%3].Status.PodIP+":"+httpPortText, "/version")
	}
	t.Logf("pods reach each other %s after the link is back", time.Since(begin).Round(100*time.Millisecond))
	await(m.ctx, t, m.client.CoreV1().Nodes(), "n2", nodeReady)
	t.Logf("the node is Ready %s after the link is back", time.Since(begin).Round(100*time.Millisecond))
	await(m.ctx, t, m.space.pods(), "web-n2", podReady)
	if after := m.state("web-n2"); after != before {
		t.Errorf("the pod was %s and is %s", before, after)
	}
}

// addressChange gives a node another address while it runs: limpet starts anew
// in place, the others follow, and no pod notices.
func (m *mesh) addressChange(t *testing.T) {
	m = m.in(t)
	before, pid := m.state("web-n3"), m.must(m.ctx, t, "pid", "n3")
	for i := range 2 {
		ip := fmt.Sprintf("10.99.0.%d", 53+i)
		m.mustIn(m.ctx, t, "n3", "sh", "-c", "ip -4 addr flush dev eth0 && ip addr add "+ip+"/24 dev eth0 && ip route add default via 10.99.0.1")
		begin := time.Now()
		await(m.ctx, t, m.client.CoreV1().Nodes(), "n3", func(n *corev1.Node) string {
			if n.Annotations["flannel.alpha.coreos.com/public-ip"] == ip && n.Status.Addresses[0].Address == ip {
				return ""
			}
			return fmt.Sprintf("annotations %v, addresses %v", n.Annotations, n.Status.Addresses)
		})
		t.Logf("the Node has the new address %s after the change", time.Since(begin).Round(100*time.Millisecond))
		for i, from := range m.places {
			from.mustFetch(m.ctx, t, m.servers[2].Status.PodIP+":"+httpPortText, "/version")
			m.places[2].mustFetch(m.ctx, t, m.servers[i].Status.PodIP+":"+httpPortText, "/version")
		}
		t.Logf("pods reach each other %s after the change", time.Since(begin).Round(100*time.Millisecond))
		await(m.ctx, t, m.client.CoreV1().Nodes(), "n3", nodeReady)
		eventually(m.ctx, t, "logs of a pod on the node", func() error {
			_, err := m.space.pods().GetLogs("web-n3", &corev1.PodLogOptions{}).DoRaw(m.ctx)
			return err
		})
	}
	if now := m.must(m.ctx, t, "pid", "n3"); now != pid {
		t.Errorf("limpet's pid was %s and is %s", pid, now)
	}
	if after := m.state("web-n3"); after != before {
		t.Errorf("the pod was %s and is %s", before, after)
	}
}

// nodeRemoved takes a node out of the cluster, seen by one that runs and by one
// that does not at that moment.
func (m *mesh) nodeRemoved(t *testing.T) {
	m = m.in(t)
	node := must[*corev1.Node](m.space)(m.client.CoreV1().Nodes().Get(m.ctx, "n3", metav1.GetOptions{}))
	cidr := node.Spec.PodCIDR
	m.must(m.ctx, t, "stop", "n2")
	m.must(m.ctx, t, "halt", "n3")
	m.ok(m.client.CoreV1().Nodes().Delete(m.ctx, "n3", metav1.DeleteOptions{}))
	begin := time.Now()
	gone := func(name string) func() error {
		return func() error {
			if out := m.mustIn(m.ctx, t, name, "ip", "route", "show", cidr); out != "" {
				return fmt.Errorf("route %s", out)
			}
			return nil
		}
	}
	eventually(m.ctx, t, "n1 forgets n3", gone("n1"))
	t.Logf("n1 has forgotten n3 after %s", time.Since(begin).Round(100*time.Millisecond))
	if gone("n2")() == nil {
		t.Fatal("n2 has forgotten n3 without limpet: the test is worth nothing")
	}
	m.must(m.ctx, t, "start", "n2")
	eventually(m.ctx, t, "n2 forgets n3", gone("n2"))
	m.places[0].mustFetch(m.ctx, t, m.servers[1].Status.PodIP+":"+httpPortText, "/version")
}

// state is what a pod must keep: its containers and their restarts.
func (m *mesh) state(name string) string {
	m.t.Helper()
	p := must[*corev1.Pod](m.space)(m.space.pods().Get(m.ctx, name, metav1.GetOptions{}))
	s := "uid " + string(p.UID)
	for _, c := range p.Status.ContainerStatuses {
		s += fmt.Sprintf(", container %s restarted %d times", c.ContainerID, c.RestartCount)
	}
	return s
}

// nodeReady says what a node lacks to be Ready.
func nodeReady(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			if c.Status == corev1.ConditionTrue {
				return ""
			}
			return fmt.Sprintf("Ready is %s: %s %s", c.Status, c.Reason, c.Message)
		}
	}
	return "it has no condition Ready"
}

// TestServerAddressChange gives the only server another address.
func TestServerAddressChange(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 1)
	s := newSpace(t, c, 3*time.Minute)
	p := s.start(pod("web", httpdSpec()))
	pid := c.must(s.ctx, t, "pid", node1)
	const ip = "10.99.0.61"
	c.mustIn(s.ctx, t, node1, "sh", "-c", "ip -4 addr flush dev eth0 && ip addr add "+ip+"/24 dev eth0 && ip route add default via 10.99.0.1")
	begin := time.Now()
	// The relay leads to the old address: ask on the node.
	kubectl := func(args ...string) (string, error) {
		return c.script(s.ctx, append([]string{"exec", node1, "limpet", "kubectl", "-n", s.name}, args...)...)
	}
	eventually(s.ctx, t, "the Node has the new address", func() error {
		out, err := kubectl("get", "node", node1, "-o", "jsonpath={.status.addresses[0].address} {.status.conditions[?(@.type=='Ready')].status}")
		if err == nil && out != ip+" True" {
			err = fmt.Errorf("address and readiness: %s", out)
		}
		return err
	})
	t.Logf("the server works at its new address %s after the change", time.Since(begin).Round(100*time.Millisecond))
	if now := c.must(s.ctx, t, "pid", node1); now != pid {
		t.Errorf("limpet's pid was %s and is %s", pid, now)
	}
	eventually(s.ctx, t, "logs by the new address", func() error {
		_, err := kubectl("logs", "web")
		return err
	})
	out, err := kubectl("get", "pod", "web", "-o", "jsonpath={.status.podIP} {.status.containerStatuses[0].restartCount}")
	if err != nil || out != p.Status.PodIP+" 0" {
		t.Errorf("the pod's address and restarts are %q, %v; it had %s", out, err, p.Status.PodIP)
	}
	// From outside, by the new address: the certificate is for it.
	roots := x509.NewCertPool()
	ca, err := os.ReadFile(c.path(t, node1, dataDir+"/server/tls/server-ca.crt"))
	s.ok(err)
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DialContext: c.node(t, lan).dial, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true,
	}}
	if body, err := get(s.ctx, client, "https://"+ip+":6443/readyz"); err != nil || body != "ok" {
		t.Errorf("from outside: %q, %v", body, err)
	}
	c.mustIn(s.ctx, t, node1, "ip", "addr", "add", "10.99.0.11/24", "dev", "eth0") // for the relay, at the end
}
