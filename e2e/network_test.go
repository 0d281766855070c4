package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var threeNodes = []string{"n1", "n2", "n3"}

// TestNetwork sends traffic of every kind between three nodes.
func TestNetwork(t *testing.T) {
	t.Parallel()
	t.Run("vxlan", func(t *testing.T) {
		m := newMesh(t, 1450, ownCluster(t, 3, "--nodes", "3"))
		m.everything(t)
		t.Run("MTU of the underlay", m.smallerUnderlay)
		t.Run("cut link", m.cutLink)
		t.Run("address change", m.addressChange)
	})
	t.Run("host-gw", func(t *testing.T) {
		m := newMesh(t, 1500, ownCluster(t, 3, "--nodes", "3", "--flannel-backend", "host-gw"))
		m.everything(t)
		t.Run("node removed", m.nodeRemoved)
	})
	t.Run("dual-stack", func(t *testing.T) {
		m := newMesh(t, 1430, ownCluster(t, 3, "--nodes", "3", "--dual-stack",
			"--cluster-cidr", "10.42.0.0/16,fd00:42::/56", "--service-cidr", "10.43.0.0/16,fd00:43::/112"))
		t.Run("pods", m.pods)
		t.Run("IPv6", m.ipv6)
		t.Run("large packets", m.largePackets)
	})
}

// mesh is a cluster with a server pod on each node, all behind the Service web.
type mesh struct {
	*space
	mtu     int
	servers []*corev1.Pod // in the order of threeNodes
	places  []place       // of the pods
	names   []string
}

func newMesh(t *testing.T, mtu int, c *cluster) *mesh {
	t.Helper()
	m := &mesh{space: newSpace(t, c, 7*time.Minute), mtu: mtu}
	for _, node := range threeNodes {
		m.create(m.serverOn(node, "web-"+node))
	}
	for _, node := range threeNodes {
		p := await(m.ctx, t, m.space.pods(), "web-"+node, podReady)
		m.servers, m.places, m.names = append(m.servers, p), append(m.places, podPlace(t, p)), append(m.names, p.Name)
	}
	m.createService(service("web"))
	return m
}

// serverOn is a pod of the Service web on a node.
func (m *mesh) serverOn(node, name string) *corev1.Pod {
	p := pod(name, httpdSpec())
	p.Labels = app("web")
	p.Spec.NodeName = node
	return p
}

// everything is what both backends must be able to do.
func (m *mesh) everything(t *testing.T) {
	t.Run("pods", m.pods)
	t.Run("Services", m.services)
	t.Run("large packets", m.largePackets)
	t.Run("node ports", m.nodePorts)
	t.Run("source addresses", m.sources)
	t.Run("session affinity", m.affinity)
	t.Run("load balancer", m.loadBalancer)
}

func (m *mesh) in(t *testing.T) *mesh {
	sub := *m
	sub.space = m.with(t)
	return &sub
}

// pods: every pod reaches every pod, TCP and UDP, and is seen with its own address.
func (m *mesh) pods(t *testing.T) {
	m = m.in(t)
	for i, from := range m.places {
		for _, to := range m.servers {
			for _, ip := range to.Status.PodIPs {
				address := net.JoinHostPort(ip.IP, httpPortText)
				seen := from.mustFetch(m.ctx, t, address, "/clientip")
				if !slices.ContainsFunc(m.servers[i].Status.PodIPs, func(own corev1.PodIP) bool { return own.IP == seen }) {
					t.Errorf("%s sees %s as %s, want its address %v", to.Name, from.name, seen, m.servers[i].Status.PodIPs)
				}
				m.mustEcho(from, address, to.Name)
			}
		}
	}
	for _, name := range threeNodes {
		for _, to := range m.servers {
			from := m.node(t, name)
			from.mustFetch(m.ctx, t, net.JoinHostPort(to.Status.PodIP, httpPortText), "/version")
		}
	}
}

// mustEcho sends a UDP packet and gets it back from the named pod (any, if "").
func (m *mesh) mustEcho(from place, address, name string) {
	m.t.Helper()
	eventually(m.ctx, m.t, fmt.Sprintf("UDP from %s to %s", from.name, address), func() error {
		got, err := echoUDP(m.space, from, address, "hello")
		if err == nil && (!strings.HasSuffix(got, " hello") || name != "" && !strings.HasPrefix(got, name+" ")) {
			err = fmt.Errorf("answer %q", got)
		}
		return err
	})
}

func (m *mesh) web() *corev1.Service {
	m.t.Helper()
	return must[*corev1.Service](m.space)(m.client.CoreV1().Services(m.name).Get(m.ctx, "web", metav1.GetOptions{}))
}

// services: from every pod and every node all pods are reached through the Service.
func (m *mesh) services(t *testing.T) {
	m = m.in(t)
	address := m.web().Spec.ClusterIP
	from := slices.Clone(m.places)
	for _, name := range threeNodes {
		from = append(from, m.node(t, name))
	}
	for _, p := range from {
		if got := servedBy(m.space, p, address, 40); !slices.Equal(got, m.names) {
			t.Errorf("from %s: answered by %v, want %v", p.name, got, m.names)
		}
		m.mustEcho(p, address+":80", "")
	}
	// A pod is seen with its own address, but by itself: that is answered from
	// where the answer comes back, the bridge of its node.
	own := netip.MustParseAddr(m.servers[2].Status.PodIP)
	bridge := netip.PrefixFrom(own, 24).Masked().Addr().Next()
	seen := map[string]int{}
	for range 30 {
		seen[m.places[2].mustFetch(m.ctx, t, address, "/clientip")]++
	}
	if seen[own.String()] == 0 || seen[own.String()]+seen[bridge.String()] != 30 {
		t.Errorf("through the Service a pod with the address %s is seen as %v", own, seen)
	}
}

// largePackets: packets of the pod's MTU arrive whole, larger ones are refused
// at once, and a stream of 16 MiB comes back as it was.
func (m *mesh) largePackets(t *testing.T) {
	m = m.in(t)
	to := m.servers[1]
	for _, ip := range to.Status.PodIPs {
		headers := 28
		if strings.Contains(ip.IP, ":") {
			headers = 48
		}
		address := net.JoinHostPort(ip.IP, httpPortText)
		if err := m.sendWhole(m.places[2], address, m.mtu-headers); err != nil {
			t.Errorf("a packet of %d bytes to %s: %v", m.mtu, address, err)
		}
		if err := m.sendWhole(m.places[2], address, m.mtu-headers+1); !errors.Is(err, syscall.EMSGSIZE) {
			t.Errorf("a packet of %d bytes to %s: %v, want that it is too long", m.mtu+1, address, err)
		}
		m.largeStream(m.places[2], address)
	}
}

// largeStream sends 16 MiB and gets them back.
func (m *mesh) largeStream(from place, address string) {
	m.t.Helper()
	data := make([]byte, 16<<20)
	_, _ = rand.Read(data)
	begin := time.Now()
	resp, err := from.http().Post("http://"+address+"/echo", "application/octet-stream", bytes.NewReader(data))
	if err != nil {
		m.t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || !bytes.Equal(got, data) {
		m.t.Errorf("of %d bytes to %s, %d came back, %v", len(data), address, len(got), err)
	}
	m.t.Logf("16 MiB to %s and back in %s", address, time.Since(begin).Round(time.Millisecond))
}

// sendWhole sends a UDP packet that may not be fragmented, and awaits the answer.
func (m *mesh) sendWhole(from place, address string, size int) error {
	conn, err := from.dial(m.ctx, "udp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UDPConn).SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	err = raw.Control(func(fd uintptr) {
		level, option, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO
		if strings.HasPrefix(address, "[") {
			level, option, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO
		}
		optErr = unix.SetsockoptInt(int(fd), level, option, value)
	})
	if err = errors.Join(err, optErr); err != nil {
		return err
	}
	for range 3 { // UDP may lose one
		if err = conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		if _, err = conn.Write(bytes.Repeat([]byte("x"), size)); err != nil {
			return err
		}
		var n int
		buf := make([]byte, 64<<10)
		if n, err = conn.Read(buf); err == nil {
			if n < size {
				return fmt.Errorf("the answer has %d bytes", n)
			}
			return nil
		}
	}
	return err
}

// nodePorts: each node's port leads to all pods, from outside and from inside;
// with the policy Local only to those of the node.
func (m *mesh) nodePorts(t *testing.T) {
	m = m.in(t)
	svc, local := service("web"), service("web")
	svc.Name, svc.Spec.Type = "web-nodeport", corev1.ServiceTypeNodePort
	local.Name, local.Spec.Type = "web-local", corev1.ServiceTypeNodePort
	local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	svc, local = m.createService(svc), m.createService(local)
	outside := m.node(t, lan)
	for i, name := range threeNodes {
		address := fmt.Sprintf("%s:%d", m.nodeIP(t, name), svc.Spec.Ports[0].NodePort)
		for _, from := range []place{outside, m.places[0]} {
			if got := servedBy(m.space, from, address, 40); !slices.Equal(got, m.names) {
				t.Errorf("%s from %s: answered by %v, want %v", address, from.name, got, m.names)
			}
		}
		m.mustEcho(outside, fmt.Sprintf("%s:%d", m.nodeIP(t, name), svc.Spec.Ports[1].NodePort), "")
		address = fmt.Sprintf("%s:%d", m.nodeIP(t, name), local.Spec.Ports[0].NodePort)
		if got := servedBy(m.space, outside, address, 10); !slices.Equal(got, m.names[i:i+1]) {
			t.Errorf("policy Local on %s: answered by %v", name, got)
		}
		if got := outside.mustFetch(m.ctx, t, address, "/clientip"); got != "10.99.0.1" {
			t.Errorf("policy Local on %s: the client is seen as %s", name, got)
		}
	}
}

// sources: to the world, and to other nodes, a pod has its node's address.
func (m *mesh) sources(t *testing.T) {
	m = m.in(t)
	outside := m.node(t, lan)
	var l net.Listener
	m.ok(outside.within(func() (err error) {
		l, err = net.Listen("tcp", "10.99.0.1:0")
		return err
	}))
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		_, _ = io.WriteString(w, host)
	})}
	go func() { _ = srv.Serve(l) }()
	defer func() { _ = srv.Close() }()
	for i, name := range threeNodes {
		if got, want := m.places[i].mustFetch(m.ctx, t, l.Addr().String(), "/"), m.nodeIP(t, name); got != want {
			t.Errorf("the world sees a pod of %s as %s, want %s", name, got, want)
		}
	}
}

func (m *mesh) affinity(t *testing.T) {
	m = m.in(t)
	svc := service("web")
	svc.Name, svc.Spec.SessionAffinity = "web-sticky", corev1.ServiceAffinityClientIP
	svc = m.createService(svc)
	for _, from := range m.places {
		from.mustFetch(m.ctx, t, svc.Spec.ClusterIP, "/")
		if got := servedBy(m.space, from, svc.Spec.ClusterIP, 20); len(got) != 1 {
			t.Errorf("%s was answered by %v, want one pod", from.name, got)
		}
	}
}

// loadBalancer: a node's address as that of a Service, for clients outside and inside.
func (m *mesh) loadBalancer(t *testing.T) {
	m = m.in(t)
	svc := service("web")
	svc.Name, svc.Spec.Type = "web-lb", corev1.ServiceTypeLoadBalancer
	svc.Spec.Ports[0].Port, svc.Spec.Ports[1].Port = 8088, 8088
	svc = m.createService(svc)
	svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: m.nodeIP(t, "n2")}}
	_, err := m.client.CoreV1().Services(m.name).UpdateStatus(m.ctx, svc, metav1.UpdateOptions{})
	m.ok(err)
	address := m.nodeIP(t, "n2") + ":8088"
	for _, from := range []place{m.node(t, lan), m.places[0], m.places[1], m.node(t, "n3")} {
		if got := servedBy(m.space, from, address, 40); !slices.Equal(got, m.names) {
			t.Errorf("from %s: answered by %v, want %v", from.name, got, m.names)
		}
		m.mustEcho(from, address, "")
	}
}

// ipv6: Services of the second family, node ports on it, and both at once.
func (m *mesh) ipv6(t *testing.T) {
	m = m.in(t)
	svc := service("web")
	svc.Name, svc.Spec.Type = "web-dual", corev1.ServiceTypeNodePort
	svc.Spec.IPFamilyPolicy = ptr(corev1.IPFamilyPolicyRequireDualStack)
	svc = m.createService(svc)
	if len(svc.Spec.ClusterIPs) != 2 {
		t.Fatalf("the Service has the addresses %v", svc.Spec.ClusterIPs)
	}
	for _, p := range m.servers {
		if len(p.Status.PodIPs) != 2 {
			t.Fatalf("pod %s has the addresses %v", p.Name, p.Status.PodIPs)
		}
	}
	from := append(slices.Clone(m.places), m.node(t, "n1"), m.node(t, "n3"))
	for _, ip := range svc.Spec.ClusterIPs {
		for _, p := range from {
			if got := servedBy(m.space, p, net.JoinHostPort(ip, "80"), 40); !slices.Equal(got, m.names) {
				t.Errorf("%s from %s: answered by %v, want %v", ip, p.name, got, m.names)
			}
			m.mustEcho(p, net.JoinHostPort(ip, "80"), "")
		}
	}
	outside := m.node(t, lan)
	for i := range threeNodes {
		address := fmt.Sprintf("[fd00:99::%d]:%d", 11+i, svc.Spec.Ports[0].NodePort)
		if got := servedBy(m.space, outside, address, 40); !slices.Equal(got, m.names) {
			t.Errorf("%s: answered by %v, want %v", address, got, m.names)
		}
	}
}
