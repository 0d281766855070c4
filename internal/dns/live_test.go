package dns

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
)

func TestServesWithoutAPI(t *testing.T) {
	r := start(t, nil)
	r.awaitLog("DNS server listens")
	// Nothing to forward to: fail at once and say why.
	begin := time.Now()
	m := r.ask("example.org", dns.TypeA)
	if m.Rcode != dns.RcodeServerFailure || time.Since(begin) > time.Second {
		t.Errorf("without upstream: %s after %s", dns.RcodeToString[m.Rcode], time.Since(begin))
	}
	if st := r.Status(); !has(st.Notes, "no name server") || st.Error != "" || len(st.Listen) != 1 {
		t.Errorf("status %+v", st)
	}
	if m := askAt(t, "tcp", r.at, "kubernetes.default.svc.cluster.local", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("unsynced: %s", dns.RcodeToString[m.Rcode])
	}
}

func TestFollowsResolvConf(t *testing.T) {
	upstreamServer(t, "127.0.0.77:53", "203.0.113.7")
	r := start(t, corefileOnly(t, ".:53 {\n forward . /etc/resolv.conf\n}\n"))
	r.awaitLog("DNS server listens")
	for i, replace := range []func(text string){
		func(text string) { _ = os.WriteFile(r.resolv, []byte(text), 0o600) },
		func(text string) { // as resolvconf does it
			_ = os.WriteFile(r.resolv+".new", []byte(text), 0o600)
			_ = os.Rename(r.resolv+".new", r.resolv)
		},
	} {
		replace("nameserver 10.43.0.10\nnameserver 127.0.0.77\n")
		r.awaitLog("DNS server listens")
		if got := address(r.ask("example.org", dns.TypeA)); got != "203.0.113.7" {
			t.Errorf("%d: example.org is %s", i, got)
		}
		replace("nameserver 10.43.0.10\n")
		r.awaitLog("DNS server listens")
		if got := address(r.ask("example.com", dns.TypeA)); got != "SERVFAIL" {
			t.Errorf("%d: only the cluster DNS as upstream: example.com is %s", i, got)
		}
	}
}

func TestCutsLoops(t *testing.T) {
	// A resolver of the machine that forwards everything to the cluster DNS.
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	api := newFakeAPI(t)
	api.set("configmaps", configMap(mainConfigMap, map[string]string{"Corefile": ".:53 {\n errors\n forward . " + pc.LocalAddr().String() + "\n}\n"}))
	r := start(t, func(o *Options) { o.RestConfig = &rest.Config{Host: api.URL} })
	srv := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m, _, err := (&dns.Client{Timeout: 5 * time.Second}).Exchange(q, r.at)
		if err == nil {
			_ = w.WriteMsg(m)
		}
	})}
	go func() { _ = srv.ActivateAndServe() }()
	t.Cleanup(func() { _ = srv.Shutdown() })
	r.awaitLog("DNS server listens")
	begin := time.Now()
	if m := r.ask("loop.example", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("loop answered with %s", dns.RcodeToString[m.Rcode])
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("a loop took %s", took)
	}
	r.awaitLog("forwards queries back to the cluster DNS")
	t.Logf("loop cut after %s", time.Since(begin).Round(time.Millisecond))
}

func TestFollowsConfigMaps(t *testing.T) {
	upstream := upstreamServer(t, "127.0.0.1:0", "203.0.113.9")
	api := newFakeAPI(t)
	main := func(nodeHosts string) {
		api.set("configmaps", configMap(mainConfigMap, map[string]string{"Corefile": strings.ReplaceAll(
			DefaultCorefile("cluster.local"), "prometheus :9153", "prometheus 127.0.0.1:0"), "NodeHosts": nodeHosts}))
	}
	main("192.0.2.1 n1\n")
	r := start(t, func(o *Options) {
		o.RestConfig, o.Kubeconfig = &rest.Config{Host: api.URL}, api.kubeconfig()
		o.NodeConfig, o.NodeName = o.RestConfig, "n1"
	})
	r.awaitLog("DNS server listens")
	if got := address(r.ask("n1", dns.TypeA)); got != "192.0.2.1" {
		t.Errorf("NodeHosts: n1 is %s", got)
	}
	main("192.0.2.2 n1\n")
	r.awaitLog("DNS server listens")
	if got := address(r.ask("n1", dns.TypeA)); got != "192.0.2.2" {
		t.Errorf("changed NodeHosts: n1 is %s", got)
	}

	custom := func(data map[string]string) { api.set("configmaps", configMap(customConfigMap, data)) }
	custom(map[string]string{
		"corp.server":  "corp.example:53 {\n forward . " + upstream + "\n}\n",
		"one.override": "template IN A static.example {\n answer \"{{ .Name }} 60 IN A 192.0.2.99\"\n}\n",
	})
	r.awaitLog("DNS server listens")
	if got := address(r.ask("www.corp.example", dns.TypeA)); got != "203.0.113.9" {
		t.Errorf("*.server: www.corp.example is %s", got)
	}
	if got := address(r.ask("static.example", dns.TypeA)); got != "192.0.2.99" {
		t.Errorf("*.override: static.example is %s", got)
	}

	// What does not parse, and what CoreDNS itself refuses: the old one stays.
	for _, bad := range []string{"nonsense\n", "cache minus\n", "forward corp.example 1.2.3.4 {\n unknown\n}\n"} {
		custom(map[string]string{"one.override": bad})
		ev := await(t, api.events, "Event", func(ev *corev1.Event) bool { return ev.Reason == "ConfigRefused" })
		if ev.InvolvedObject.Name != customConfigMap || ev.Type != corev1.EventTypeWarning {
			t.Errorf("Event %+v", ev)
		}
		t.Logf("Event on %s: %s", ev.InvolvedObject.Name, ev.Message)
		if got := address(r.ask("static.example", dns.TypeA)); got != "192.0.2.99" {
			t.Errorf("after bad configuration: static.example is %s", got)
		}
		if st := r.Status(); !strings.Contains(st.Error, "refused") {
			t.Errorf("status %+v", st)
		}
	}
	api.remove("configmaps", namespace, customConfigMap)
	await(t, api.events, "Event", func(ev *corev1.Event) bool { return ev.Reason == "ConfigApplied" })
	if st := r.Status(); st.Error != "" {
		t.Errorf("status %+v", st)
	}
	if got := address(r.ask("static.example", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("removed override: static.example is %s", got)
	}
}

func TestStartsWithBadConfigMap(t *testing.T) {
	api := newFakeAPI(t)
	api.set("configmaps", configMap(mainConfigMap, map[string]string{"Corefile": "nonsense {", "NodeHosts": "192.0.2.1 n1\n"}))
	r := start(t, func(o *Options) {
		o.RestConfig, o.Kubeconfig = &rest.Config{Host: api.URL}, api.kubeconfig()
		o.NodeConfig, o.NodeName = o.RestConfig, "n1"
	})
	r.awaitLog("DNS server listens")
	if got := address(r.ask("n1", dns.TypeA)); got != "192.0.2.1" {
		t.Errorf("built-in configuration: n1 is %s", got)
	}
	await(t, api.events, "Event", func(ev *corev1.Event) bool { return ev.Reason == "ConfigRefused" })
	if st := r.Status(); st.Error == "" {
		t.Errorf("status does not tell: %+v", st)
	}
}

func TestReadyAndPublishes(t *testing.T) {
	api := newFakeAPI(t)
	old := `{"addresses":["192.0.2.9"],"port":10053}` // of an earlier run
	api.set("nodes", node("n1", "192.0.2.1", old))
	r := start(t, func(o *Options) {
		o.RestConfig, o.Kubeconfig = &rest.Config{Host: api.URL}, api.kubeconfig()
		o.NodeConfig, o.NodeName = o.RestConfig, "n1"
	})
	r.awaitLog("DNS server listens")
	select {
	case <-r.ready:
		t.Fatal("ready before the Service kubernetes exists")
	case value := <-api.annotated:
		t.Fatalf("annotated with %q before it answers", value)
	default:
	}
	for i, obj := range apiServerService() {
		api.set([]string{"services", "namespaces"}[i], obj)
	}
	begin := time.Now()
	select {
	case <-r.ready:
		t.Logf("ready %s after the Service came", time.Since(begin).Round(time.Millisecond))
	case <-time.After(20 * time.Second):
		t.Fatalf("never ready: %+v", r.Status())
	}
	if got := address(r.ask("kubernetes.default.svc.cluster.local", dns.TypeA)); got != "10.43.0.1" {
		t.Errorf("kubernetes is %s", got)
	}

	// Loopback is no endpoint: what the earlier run has written goes. The
	// node's real address, which cannot be bound here, is checked below.
	await(t, api.annotated, "withdrawal", func(value string) bool { return value == "" })
	r.mu.Lock()
	r.endpoint = endpointAt(addrs("192.0.2.1"), 10053, 9153)
	r.mu.Unlock()
	poke(r.wakeEP)
	want := `{"addresses":["192.0.2.1"],"port":10053,"metricsPort":9153}`
	is := func(value string) bool { return value == want }
	await(t, api.annotated, "annotation", is)
	// Level-triggered: what somebody changes or deletes comes back.
	api.set("nodes", node("n1", "192.0.2.1", ""))
	await(t, api.annotated, "annotation after deletion", is)
	api.set("nodes", node("n1", "192.0.2.1", old))
	await(t, api.annotated, "annotation after change", is)

	// With another server in the cluster it hands over when stopped; without, it leaves things as they are.
	stop := func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := r.HandOver().Run(ctx, func() {}); err != nil {
			t.Error(err)
		}
	}
	stop()
	select {
	case value := <-api.annotated:
		t.Errorf("alone, but annotated with %q at the stop", value)
	default:
	}
	api.set("nodes", node("n2", "192.0.2.2", want))
	for r.source.node("n2") == nil {
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	await(t, api.annotated, "handing over", func(value string) bool { return value == "" })
}

func TestWithdrawal(t *testing.T) {
	t.Parallel()
	api := newFakeAPI(t)
	run := func() {
		if err := Withdrawal(&rest.Config{Host: api.URL}, "n1").Run(t.Context(), func() {}); err != nil {
			t.Error(err)
		}
	}
	run() // there is no such Node
	api.set("nodes", node("n1", "192.0.2.1", "anything"))
	run()
	await(t, api.annotated, "withdrawal", func(value string) bool { return value == "" })
	run()
	select {
	case value := <-api.annotated:
		t.Errorf("annotated again with %q", value)
	default:
	}
}

func TestReadyWithoutClusterNames(t *testing.T) {
	api := newFakeAPI(t)
	api.set("configmaps", configMap(mainConfigMap, map[string]string{"Corefile": ".:53 {\n whoami\n}\n"}))
	r := start(t, func(o *Options) { o.RestConfig, o.Kubeconfig = &rest.Config{Host: api.URL}, api.kubeconfig() })
	select {
	case <-r.ready:
	case <-time.After(20 * time.Second):
		t.Fatalf("never ready: %+v", r.Status())
	}
}

func TestRefusesStrangers(t *testing.T) {
	api := newFakeAPI(t)
	api.set("configmaps", configMap(mainConfigMap, map[string]string{"Corefile": ".:53 {\n whoami\n}\n"}))
	r := start(t, func(o *Options) { o.RestConfig = &rest.Config{Host: api.URL} })
	r.awaitLog("DNS server listens")
	if m := r.ask("x", dns.TypeA); m.Rcode != dns.RcodeSuccess {
		t.Errorf("loopback: %s", dns.RcodeToString[m.Rcode])
	}
	// There is no stranger on loopback; take the right away from it by a user's rule.
	api.set("configmaps", configMap(mainConfigMap, map[string]string{"Corefile": ".:53 {\n whoami\n acl {\n block net 127.0.0.0/8\n }\n}\n"}))
	r.awaitLog("DNS server listens")
	if m := r.ask("x", dns.TypeA); m.Rcode != dns.RcodeRefused {
		t.Errorf("blocked: %s", dns.RcodeToString[m.Rcode])
	}
	api.set("nodes", node("n2", "192.0.2.2", ""))
	r.awaitLog("DNS server listens")
	text, err := os.ReadFile(filepath.Join(r.opts.RunDir, "Corefile"))
	if err != nil || !strings.Contains(string(text), "192.0.2.2/32") {
		t.Errorf("a new node is not allowed: %v\n%s", err, text)
	}
}

func TestMovesToANewAddress(t *testing.T) {
	only := corefileOnly(t, ".:53 {\n whoami\n}\n")
	r := start(t, func(o *Options) { only(o); o.ListenAddrs = nil })
	r.SetListenAddrs(addrs("127.0.0.1"))
	r.awaitLog("DNS server listens")
	r.SetListenAddrs(addrs("127.0.0.2"))
	r.awaitLog("DNS server listens")
	_, port, _ := net.SplitHostPort(r.at)
	askAt(t, "udp", "127.0.0.2:"+port, "x.example", dns.TypeA)
	askAt(t, "tcp", "127.0.0.2:"+port, "x.example", dns.TypeA)
	if l, err := net.Listen("tcp", r.at); err != nil {
		t.Errorf("the old address is still taken: %v", err)
	} else {
		_ = l.Close()
	}
	// An address that this machine does not have: the old one keeps answering.
	r.SetListenAddrs(addrs("192.0.2.1"))
	r.awaitLog("cannot assign requested address")
	askAt(t, "udp", "127.0.0.2:"+port, "x.example", dns.TypeA)
}

func TestRefusesATakenPort(t *testing.T) {
	r := start(t, func(o *Options) { o.ListenAddrs = nil })
	pc, err := net.ListenPacket("udp", r.at)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	r.SetListenAddrs(addrs("127.0.0.1"))
	r.awaitLog("address already in use")
	_ = pc.Close() // freed: it recovers by itself
	r.awaitLog("DNS server listens")
}

// TestSwapLosesNothing asks all the time while the configuration is swapped.
func TestSwapLosesNothing(t *testing.T) {
	api := newFakeAPI(t)
	config := func(answer string) {
		api.set("configmaps", configMap(mainConfigMap, map[string]string{
			"Corefile": ".:53 {\n prometheus 127.0.0.1:0\n template IN A x {\n answer \"x. 60 IN A " + answer + "\"\n }\n}\n"}))
	}
	config("192.0.2.1")
	r := start(t, func(o *Options) { o.RestConfig = &rest.Config{Host: api.URL} })
	r.awaitLog("DNS server listens")
	stop, done := make(chan struct{}), make(chan [2]int, 1)
	go func() {
		asked, lost := 0, 0
		for {
			select {
			case <-stop:
				done <- [2]int{asked, lost}
				return
			default:
			}
			asked++
			q := new(dns.Msg).SetQuestion("x.", dns.TypeA)
			if m, _, err := (&dns.Client{Timeout: 2 * time.Second}).Exchange(q, r.at); err != nil || len(m.Answer) != 1 {
				lost++
			}
		}
	}()
	for i := range 5 {
		config("192.0.2." + string(rune('2'+i)))
		r.awaitLog("DNS server listens")
	}
	close(stop)
	if n := <-done; n[1] != 0 {
		t.Errorf("%d of %d queries were lost during 5 swaps", n[1], n[0])
	} else {
		t.Logf("%d queries during 5 swaps, none lost", n[0])
	}
}

func TestMemory(t *testing.T) {
	measure := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, routines := measure(), runtime.NumGoroutine()
	api := newFakeAPI(t)
	r := start(t, func(o *Options) {
		o.RestConfig, o.Kubeconfig = &rest.Config{Host: api.URL}, api.kubeconfig()
		o.NodeConfig, o.NodeName = o.RestConfig, "n1"
	})
	r.awaitLog("DNS server listens")
	for range 1000 {
		r.ask("n.example", dns.TypeA)
	}
	t.Logf("heap of a running server: %d KiB, goroutines %d", (measure()-before)/1024, runtime.NumGoroutine()-routines)
	r.stop()
	for range 200 { // closing connections end in their own time
		if runtime.NumGoroutine() <= routines+20 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines are left of %d", runtime.NumGoroutine(), routines)
}
