package e2e

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TestServices calls three pods through every kind of Service, from a pod, from
// the node and from a machine outside of the cluster.
func TestServices(t *testing.T) {
	s := sharedSpace(t, 4*time.Minute)
	pods := s.deploy(deployment("web", 3, httpdSpec()))
	box := s.start(pod("box", shellSpec("")))
	fromPod, fromNode, fromLAN := podPlace(t, box), s.node(t, node1), s.node(t, lan)
	names := podNames(pods)
	plain := s.createService(service("web"))

	t.Run("ClusterIP", func(t *testing.T) {
		s := s.with(t)
		for _, from := range []place{fromPod, fromNode} {
			if got := servedBy(s, from, plain.Spec.ClusterIP, 60); !slices.Equal(got, names) {
				t.Errorf("from %s: answered by %v, want all of %v", from.name, got, names)
			}
		}
		out := s.sh(box.Name, "wget -qO- http://web/version")
		if out != "1" {
			t.Errorf("by name from the shell of a pod: %q", out)
		}
	})
	t.Run("NodePort", func(t *testing.T) {
		s := s.with(t)
		svc := service("web")
		svc.Name, svc.Spec.Type = "web-nodeport", corev1.ServiceTypeNodePort
		svc = s.createService(svc)
		address := fmt.Sprintf("%s:%d", s.nodeIP(t, node1), svc.Spec.Ports[0].NodePort)
		for _, from := range []place{fromLAN, fromPod, fromNode} {
			if got := servedBy(s, from, address, 60); !slices.Equal(got, names) {
				t.Errorf("from %s: answered by %v, want all of %v", from.name, got, names)
			}
		}
	})
	t.Run("source address", func(t *testing.T) {
		s := s.with(t)
		svc := service("web")
		svc.Name, svc.Spec.Type = "web-local", corev1.ServiceTypeNodePort
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		svc = s.createService(svc)
		address := fmt.Sprintf("%s:%d", s.nodeIP(t, node1), svc.Spec.Ports[0].NodePort)
		want, _, _ := strings.Cut(s.nodeIP(t, node1), ".11") // the LAN is .1
		if got := fromLAN.mustFetch(s.ctx, t, address, "/clientip"); got != want+".1" {
			t.Errorf("the pod sees %s, want the client's own %s.1", got, want)
		}
		if got := fromPod.mustFetch(s.ctx, t, plain.Spec.ClusterIP, "/clientip"); got != box.Status.PodIP {
			t.Errorf("the pod sees %s, want the calling pod's %s", got, box.Status.PodIP)
		}
	})
	t.Run("session affinity", func(t *testing.T) {
		s := s.with(t)
		svc := service("web")
		svc.Name, svc.Spec.SessionAffinity = "web-sticky", corev1.ServiceAffinityClientIP
		svc = s.createService(svc)
		fromPod.mustFetch(s.ctx, t, svc.Spec.ClusterIP, "/")
		if got := servedBy(s, fromPod, svc.Spec.ClusterIP, 30); len(got) != 1 {
			t.Errorf("one client was answered by %v, want one pod", got)
		}
	})
	t.Run("UDP", func(t *testing.T) {
		s := s.with(t)
		for _, from := range []place{fromPod, fromNode} {
			eventually(s.ctx, t, "UDP echo from "+from.name, func() error {
				got, err := echoUDP(s, from, plain.Spec.ClusterIP+":80", "hello")
				if err == nil && (!strings.HasSuffix(got, " hello") || !slices.Contains(names, strings.TrimSuffix(got, " hello"))) {
					err = fmt.Errorf("answer %q", got)
				}
				return err
			})
		}
	})
	t.Run("no endpoints", func(t *testing.T) {
		s := s.with(t)
		svc := service("nobody")
		svc = s.createService(svc)
		eventually(s.ctx, t, "a Service without pods refuses", func() error {
			if _, err := fromPod.fetch(s.ctx, svc.Spec.ClusterIP, "/"); !errors.Is(err, syscall.ECONNREFUSED) {
				return errors.Join(errors.New("want connection refused"), err)
			}
			return nil
		})
	})
}

// TestHairpin lets a pod call itself through its Service, as the only backend.
func TestHairpin(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	svc := service("web")
	svc.Spec.Type = corev1.ServiceTypeNodePort
	svc = s.createService(svc)
	p := s.start(pod("web", httpdSpec()))
	here := podPlace(t, p)
	for range 5 {
		if got := here.mustFetch(s.ctx, t, svc.Spec.ClusterIP, "/"); !strings.Contains(got, "pod=web") {
			t.Errorf("through the cluster IP: %q", got)
		}
	}
	address := fmt.Sprintf("%s:%d", s.nodeIP(t, node1), svc.Spec.Ports[0].NodePort)
	if got := here.mustFetch(s.ctx, t, address, "/version"); got != "1" {
		t.Errorf("through the node port: %q", got)
	}
}

// TestHostNetworkAndHostPort serves on the node's own address.
func TestHostNetworkAndHostPort(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	host := httpdSpec()
	host.HostNetwork = true
	host.Containers[0].Env = append(host.Containers[0].Env, corev1.EnvVar{Name: "PORT", Value: "18081"})
	host.Containers[0].Ports = nil
	host.Containers[0].ReadinessProbe.HTTPGet.Port = intstr.FromInt32(18081)
	mapped := httpdSpec()
	mapped.Containers[0].Ports[0].HostPort = 18082
	s.create(pod("host", host))
	s.start(pod("mapped", mapped))
	await(s.ctx, t, s.pods(), "host", podReady)
	from, ip := s.node(t, lan), s.nodeIP(t, node1)
	for port, want := range map[string]string{"18081": "host=" + node1, "18082": "pod=mapped"} {
		if got := from.mustFetch(s.ctx, t, ip+":"+port, "/"); !strings.Contains(got, want) {
			t.Errorf("port %s of the node answers %q, want %q", port, got, want)
		}
	}
}

// servedBy makes n requests and returns the names of the pods that answered, sorted.
func servedBy(s *space, from place, address string, n int) []string {
	s.t.Helper()
	var names []string
	for range n {
		answer := from.mustFetch(s.ctx, s.t, address, "/")
		name, _, _ := strings.Cut(strings.TrimPrefix(answer, "pod="), "\n")
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func podNames(pods []*corev1.Pod) []string {
	var names []string
	for _, p := range pods {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names
}

func echoUDP(s *space, from place, address, text string) (string, error) {
	conn, err := from.dial(s.ctx, "udp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	return exchange(conn, text)
}

func exchange(conn net.Conn, text string) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte(text)); err != nil {
		return "", err
	}
	buf := make([]byte, 1500)
	n, err := conn.Read(buf)
	return string(buf[:n]), err
}
