package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestAustereStart starts on an empty PATH, without a default route and without DNS.
func TestAustereStart(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 1, "--no-default-route", "--env", "PATH=", "--disable", "coredns")
	s := newSpace(t, c, 3*time.Minute)
	if routes := s.mustIn(s.ctx, t, node1, "ip", "route", "show", "default"); routes != "" {
		t.Fatalf("the node has a default route: %s", routes)
	}
	pid := strings.TrimSpace(s.must(s.ctx, t, "pid", node1))
	environ, err := os.ReadFile("/proc/" + pid + "/environ")
	s.ok(err)
	if strings.Contains("\x00"+string(environ), "\x00PATH=/") {
		t.Fatalf("limpet was started with a PATH: %q", environ)
	}
	svc := s.createService(service("web"))
	p := s.deploy(deployment("web", 1, httpdSpec()))[0]
	for _, from := range []place{s.node(t, node1), podPlace(t, p)} {
		if got := from.mustFetch(s.ctx, t, svc.Spec.ClusterIP, "/version"); got != "1" {
			t.Errorf("from %s: %q", from.name, got)
		}
	}
	system := must[*corev1.ServiceList](s)(c.client.CoreV1().Services(metav1.NamespaceSystem).List(s.ctx, metav1.ListOptions{}))
	for _, svc := range system.Items {
		if svc.Name == "kube-dns" {
			t.Error("--disable coredns left its Service")
		}
	}
	for _, part := range c.status(s.ctx, t).Components {
		if part.Name == "dns" {
			t.Errorf("--disable coredns left its component: %+v", part)
		}
	}
	if conn, err := s.node(t, node1).dial(s.ctx, "tcp", s.nodeIP(t, node1)+":10053"); err == nil {
		_ = conn.Close()
		t.Error("--disable coredns left something that listens on its port")
	}
}

// TestOtherSettings runs a cluster in which everything that can be elsewhere is.
func TestOtherSettings(t *testing.T) {
	t.Parallel()
	const dir, port = "/srv/edge", "7443"
	c := ownCluster(t, 1, "--data-dir", dir, "--https-listen-port", port,
		"--cluster-cidr", "10.52.0.0/16", "--service-cidr", "10.53.0.0/16", "--cluster-domain", "edge.example",
		"--flannel-backend", "host-gw", "--node-label", "shop=17", "--node-external-ip", "198.51.100.17", "--write-kubeconfig-mode", "0640")
	s := newSpace(t, c, 3*time.Minute)
	for _, file := range []string{"httpd-1.tar", "busybox-1.tar"} { // cluster puts images where they belong by default
		data, err := os.ReadFile(filepath.Join(env.images, file))
		s.ok(err)
		s.drop(t, node1, dir+"/agent/images/"+file, data)
	}
	svc := s.createService(service("web"))
	web := s.deploy(deployment("web", 1, httpdSpec()))[0]
	box := podPlace(t, s.start(pod("box", shellSpec(""))))
	if !strings.HasPrefix(web.Status.PodIP, "10.52.") || !strings.HasPrefix(svc.Spec.ClusterIP, "10.53.") {
		t.Errorf("pod %s and Service %s, want 10.52. and 10.53.", web.Status.PodIP, svc.Spec.ClusterIP)
	}
	for _, from := range []place{s.node(t, node1), box} {
		if got := from.mustFetch(s.ctx, t, svc.Spec.ClusterIP, "/version"); got != "1" {
			t.Errorf("from %s: %q", from.name, got)
		}
	}
	eventually(s.ctx, t, "resolve in the other domain", func() error {
		got, err := box.resolver("10.53.0.10:53").LookupHost(s.ctx, "web."+s.name+".svc.edge.example.")
		if err == nil && !slices.Equal(got, []string{svc.Spec.ClusterIP}) {
			err = fmt.Errorf("%v, want %s", got, svc.Spec.ClusterIP)
		}
		return err
	})
	if out := s.sh("box", "wget -qO- http://web/version"); out != "1" {
		t.Errorf("by the short name: %q", out)
	}
	s.drop(t, node1, dir+"/server/manifests/e2e.yaml", []byte(s.configMap("one", "applied")))
	s.awaitConfigMap(s.ctx, "one", "applied")

	node := must[*corev1.Node](s)(s.client.CoreV1().Nodes().Get(s.ctx, node1, metav1.GetOptions{}))
	if node.Labels["shop"] != "17" {
		t.Errorf("the node's labels are %v", node.Labels)
	}
	if got := externalIP(node); got != "198.51.100.17" {
		t.Errorf("the node's external address is %q", got)
	}
	if st, err := os.Stat(s.path(t, node1, adminKubeconfig)); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("%s has mode %v (%v), want 640", adminKubeconfig, st.Mode(), err)
	}
	absent(t, s, node1, dataDir+"/server")
	absent(t, s, node1, dataDir+"/data")
	for _, cmd := range []string{"kubectl get nodes", "ctr images ls", "status"} {
		s.mustIn(s.ctx, t, node1, append([]string{"limpet"}, strings.Fields(cmd)...)...)
	}
	configFiles(s, port)
}

// configFiles adds names to the certificate by two files and a flag, at a restart.
func configFiles(s *space, port string) {
	s.t.Helper()
	s.mustIn(s.ctx, s.t, node1, "mkdir", "-p", "/etc/limpet/config.yaml.d")
	s.drop(s.t, node1, "/etc/limpet/config.yaml", []byte("tls-san: [file.example]\n"))
	s.drop(s.t, node1, "/etc/limpet/config.yaml.d/10-more.yaml", []byte("tls-san+:\n- more.example\n"))
	s.must(s.ctx, s.t, "stop", node1)
	s.must(s.ctx, s.t, "start", node1)
	names := servedNames(s, port)
	for _, want := range []string{"file.example", "more.example", "kubernetes.default.svc.edge.example", node1} {
		if !slices.Contains(names, want) {
			s.t.Errorf("the certificate names %v, not %s", names, want)
		}
	}
	s.must(s.ctx, s.t, "stop", node1)
	s.must(s.ctx, s.t, "start", node1, "--tls-san", "flag.example")
	if names := servedNames(s, port); !slices.Contains(names, "flag.example") || slices.Contains(names, "file.example") {
		s.t.Errorf("the certificate names %v; the flag beats the files", names)
	}
}

// servedNames are the names in the API server's certificate.
func servedNames(s *space, port string) []string {
	s.t.Helper()
	var names []string
	eventually(s.ctx, s.t, "the API server's certificate", func() error {
		ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
		defer cancel()
		raw, err := s.node(s.t, node1).dial(ctx, "tcp", "127.0.0.1:"+port)
		if err != nil {
			return err
		}
		conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // whom it names is the question
		defer func() { _ = conn.Close() }()
		if err := conn.HandshakeContext(ctx); err != nil {
			return err
		}
		names = conn.ConnectionState().PeerCertificates[0].DNSNames
		return nil
	})
	return names
}
