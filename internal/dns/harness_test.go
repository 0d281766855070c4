package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"k8s.io/client-go/rest"
)

// recorder is a slog.Handler whose messages can be awaited.
type recorder struct {
	t *testing.T
	c chan string
}

func (r *recorder) Enabled(context.Context, slog.Level) bool { return true }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *recorder) WithGroup(string) slog.Handler            { return r }
func (r *recorder) Handle(_ context.Context, rec slog.Record) error {
	var b strings.Builder
	b.WriteString(rec.Level.String() + " " + rec.Message)
	rec.Attrs(func(a slog.Attr) bool { b.WriteString(" " + a.String()); return true })
	select {
	case r.c <- b.String():
	default:
	}
	return nil
}

// running is a server under test.
type running struct {
	*Server
	t      *testing.T
	logs   chan string
	at     string // where it listens
	resolv string
	stop   func()
	ready  chan struct{}
}

// start runs a server on a free port of 127.0.0.1 until the test ends. CoreDNS is
// one for the process, so tests that start one do not run in parallel.
func start(t *testing.T, mod func(*Options)) *running {
	t.Helper()
	dir := t.TempDir()
	r := &running{t: t, logs: make(chan string, 256), resolv: filepath.Join(dir, "resolv.conf"), ready: make(chan struct{})}
	port := freePort(t)
	r.at = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)).String()
	if err := os.WriteFile(r.resolv, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	opts := Options{
		ListenAddrs: addrs("127.0.0.1"), Port: port, ClusterDNS: addrs("10.43.0.10"),
		Kubeconfig: deadKubeconfig(t), ResolvConf: r.resolv, RunDir: filepath.Join(dir, "run"), Logger: slog.New(&recorder{t, r.logs}),
	}
	if mod != nil {
		mod(&opts)
	}
	s, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	r.Server = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(r.ready) }) }()
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Run does not return")
		}
	}
	t.Cleanup(r.stop)
	return r
}

// corefileOnly runs the server with a ConfigMap that holds the Corefile.
func corefileOnly(t *testing.T, corefile string) func(*Options) {
	api := newFakeAPI(t)
	api.set("configmaps", configMap(mainConfigMap, map[string]string{"Corefile": corefile}))
	return func(o *Options) { o.RestConfig = &rest.Config{Host: api.URL} }
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (r *running) awaitLog(part string) string {
	r.t.Helper()
	return await(r.t, r.logs, "log "+part, func(s string) bool { return strings.Contains(s, part) })
}

func (r *running) ask(name string, qtype uint16) *dns.Msg {
	r.t.Helper()
	return askAt(r.t, "udp", r.at, name, qtype)
}

func askAt(t *testing.T, network, at, name string, qtype uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(1232, false)
	m, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(q, at)
	if err != nil {
		t.Fatalf("ask %s for %s: %v", at, name, err)
	}
	return m
}

func address(m *dns.Msg) string {
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			return a.A.String()
		}
	}
	return dns.RcodeToString[m.Rcode]
}

// upstreamServer answers every A question with the address, on 127.0.0.1 or at.
func upstreamServer(t *testing.T, at, answer string) string {
	t.Helper()
	pc, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Skipf("no upstream on %s: %v", at, err)
	}
	started := make(chan struct{})
	srv := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A " + answer)
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = srv.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = srv.Shutdown() })
	return pc.LocalAddr().String()
}
