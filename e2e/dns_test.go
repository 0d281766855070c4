package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// dnsAddress is the tenth address of the service range.
const dnsAddress = "10.43.0.10:53"

// resolves waits until the name has exactly these addresses.
func (s *space) resolves(from place, name string, want ...string) {
	s.t.Helper()
	slices.Sort(want)
	eventually(s.ctx, s.t, "resolve "+name+" from "+from.name, func() error {
		got, err := from.resolver(dnsAddress).LookupHost(s.ctx, name)
		slices.Sort(got)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%v, want %v", got, want)
		}
		return err
	})
}

// TestDNS asks for every kind of name, from a pod and from the node.
func TestDNS(t *testing.T) {
	s := sharedSpace(t, 3*time.Minute)
	svc := s.createService(service("web"))
	headless := service("web")
	headless.Name, headless.Spec.ClusterIP = "headless", corev1.ClusterIPNone
	s.createService(headless)
	s.createService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "web." + s.name + ".svc.cluster.local"}})
	spec := httpdSpec()
	spec.Hostname, spec.Subdomain = "first", "headless"
	named := pod("web", spec)
	s.create(named)
	box := s.start(pod("box", shellSpec("")))
	web := await(s.ctx, t, s.pods(), "web", podReady)

	base := s.name + ".svc.cluster.local."
	kubernetes := must[*corev1.Service](s)(s.client.CoreV1().Services("default").Get(s.ctx, "kubernetes", metav1.GetOptions{}))
	for _, from := range []place{podPlace(t, box), s.node(t, node1)} {
		s.resolves(from, "web."+base, svc.Spec.ClusterIP)
		s.resolves(from, "headless."+base, web.Status.PodIP)
		s.resolves(from, "first.headless."+base, web.Status.PodIP)
		s.resolves(from, "elsewhere."+base, svc.Spec.ClusterIP)
		s.resolves(from, "kubernetes.default.svc.cluster.local.", kubernetes.Spec.ClusterIP)
		s.resolves(from, strings.ReplaceAll(web.Status.PodIP, ".", "-")+"."+s.name+".pod.cluster.local.", web.Status.PodIP)
	}

	r := podPlace(t, box).resolver(dnsAddress)
	_, srv, err := r.LookupSRV(s.ctx, "http", "tcp", "web."+base)
	if err != nil || len(srv) != 1 || srv[0].Port != 80 || srv[0].Target != "web."+base {
		t.Errorf("SRV: %s, %v", jsonText(srv), err)
	}
	_, srv, err = r.LookupSRV(s.ctx, "http", "tcp", "headless."+base)
	if err != nil || len(srv) != 1 || srv[0].Port != httpPort || srv[0].Target != "first.headless."+base {
		t.Errorf("SRV of the headless Service: %s, %v", jsonText(srv), err)
	}
	if got, err := r.LookupAddr(s.ctx, svc.Spec.ClusterIP); err != nil || !slices.Contains(got, "web."+base) {
		t.Errorf("PTR of %s: %v, %v", svc.Spec.ClusterIP, got, err)
	}
	if got, err := r.LookupAddr(s.ctx, web.Status.PodIP); err != nil || !slices.Contains(got, "first.headless."+base) {
		t.Errorf("PTR of %s: %v, %v", web.Status.PodIP, got, err)
	}
	if got, err := r.LookupHost(s.ctx, "nobody."+base); err == nil || !isNotFound(err) {
		t.Errorf("a name that does not exist: %v, %v, want NXDOMAIN", got, err)
	}
}

func isNotFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// TestDNSFromAShell uses what a pod has by itself: its resolv.conf and busybox.
func TestDNSFromAShell(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	svc := s.createService(service("web"))
	box := s.start(pod("box", shellSpec("")))
	conf := s.sh("box", "cat /etc/resolv.conf")
	for _, want := range []string{"nameserver 10.43.0.10", "search " + s.name + ".svc.cluster.local svc.cluster.local cluster.local", "ndots:5"} {
		if !strings.Contains(conf, want) {
			t.Errorf("resolv.conf has no %q: %q", want, conf)
		}
	}
	// The first question may come before the DNS server has heard of the Service.
	s.resolves(podPlace(t, box), "web."+s.name+".svc.cluster.local.", svc.Spec.ClusterIP)
	for _, name := range []string{"web." + s.name + ".svc.cluster.local", "kubernetes.default.svc.cluster.local"} {
		out := s.sh("box", "nslookup -type=a "+name)
		if !strings.Contains(out, "10.43.") || !strings.Contains(out, "Server:\t\t10.43.0.10") {
			t.Errorf("nslookup %s: %q", name, out)
		}
	}
	if out := s.sh("box", "nslookup -type=srv _http._tcp.web."+s.name+".svc.cluster.local"); !strings.Contains(out, " 80 web.") {
		t.Errorf("nslookup SRV: %q", out)
	}
	// Short names go through the search list, in the resolver of libc's kind.
	if out := s.sh("box", "ping -c1 -W1 web 2>&1 | head -1"); !strings.Contains(out, svc.Spec.ClusterIP) {
		t.Errorf("ping of the short name: %q", out)
	}
}

// TestDNSOverrides changes coredns-custom while the server runs: a zone of its
// own, then a broken file beside it, then its removal.
func TestDNSOverrides(t *testing.T) {
	s := sharedSpace(t, 3*time.Minute)
	box := s.start(pod("box", shellSpec("")))
	here := podPlace(t, box)
	maps := s.client.CoreV1().ConfigMaps("kube-system")
	custom := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "coredns-custom"}, Data: map[string]string{
		"shop.server": "shop.example:53 {\n  hosts {\n    192.0.2.7 till.shop.example\n    fallthrough\n  }\n}\n",
		"rule.server": "plain.example:53 {\n  template IN A {\n    answer \"{{ .Name }} 60 IN A 192.0.2.8\"\n  }\n  template IN AAAA {\n    rcode NOERROR\n  }\n}\n",
	}}
	if _, err := maps.Create(s.ctx, custom, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := maps.Delete(ctx, custom.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	start := time.Now()
	s.resolves(here, "till.shop.example.", "192.0.2.7")
	s.resolves(here, "anything.plain.example.", "192.0.2.8")
	t.Logf("the zones answered %s after the ConfigMap was written", time.Since(start).Round(time.Millisecond))

	custom.Data["broken.server"] = "broken.example:53 {\n  no-such-plugin\n}\n"
	must[*corev1.ConfigMap](s)(maps.Update(s.ctx, custom, metav1.UpdateOptions{}))
	eventAbout(s.ctx, t, s.cluster, "a Warning about coredns-custom", func(e *corev1.Event) bool {
		return e.InvolvedObject.Name == custom.Name && e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, "no-such-plugin")
	})
	eventually(s.ctx, t, "limpet status tells of it", func() error {
		if got := s.status(s.ctx, t).DNS.Error; !strings.Contains(got, "no-such-plugin") {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
	s.resolves(here, "till.shop.example.", "192.0.2.7") // what ran before still runs
	s.resolves(here, "kubernetes.default.svc.cluster.local.", "10.43.0.1")

	delete(custom.Data, "broken.server")
	custom.Data["shop.server"] = strings.ReplaceAll(custom.Data["shop.server"], "192.0.2.7", "192.0.2.9")
	must[*corev1.ConfigMap](s)(maps.Update(s.ctx, custom, metav1.UpdateOptions{}))
	s.resolves(here, "till.shop.example.", "192.0.2.9")
	eventually(s.ctx, t, "limpet status is content again", func() error {
		if got := s.status(s.ctx, t).DNS.Error; got != "" {
			return fmt.Errorf("it says %q", got)
		}
		return nil
	})
}

// TestDNSOverTCP asks the same server by its other transport.
func TestDNSOverTCP(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	headless := service("web")
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	s.createService(headless)
	pods := s.deploy(deployment("web", 2, httpdSpec()))
	var want []string
	for _, p := range pods {
		want = append(want, p.Status.PodIP)
	}
	slices.Sort(want)
	here := podPlace(t, pods[0])
	tcp := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return here.dial(ctx, "tcp", dnsAddress)
	}}
	eventually(s.ctx, t, "resolve over TCP", func() error {
		got, err := tcp.LookupHost(s.ctx, "web."+s.name+".svc.cluster.local.")
		slices.Sort(got)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("%v, want %v", got, want)
		}
		return err
	})
}
