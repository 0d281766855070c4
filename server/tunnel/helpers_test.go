package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	agenttunnel "github.com/limpetio/limpet/agent/tunnel"
	"github.com/limpetio/limpet/internal/pki"
)

// podIP is an address that this machine answers on without having it: "pods" of
// the tests listen there.
const podIP = "127.42.1.7"

// world is a Hub behind a TLS server that authenticates as the API server does.
type world struct {
	t         *testing.T
	hub       *Hub
	server    *httptest.Server
	dir       string
	authority *pki.Authority
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	var err error
	if w.authority, err = pki.Open(filepath.Join(w.dir, "tls"), pki.Options{}); err != nil {
		t.Fatal(err)
	}
	w.hub = New(slog.New(slog.DiscardHandler))
	w.hub.nodes.synced = func() bool { return true }
	w.serve()
	return w
}

// serve starts the API server of the world and ends it with the test.
func (w *world) serve() {
	w.t.Helper()
	hub := w.hub
	serving, err := w.authority.Server.Ensure("serving", pki.Leaf{
		CommonName: "kube-apiserver", IPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, DNSNames: []string{"localhost"},
		Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(serving.Cert, serving.Key)
	if err != nil {
		w.t.Fatal(err)
	}
	clients := x509.NewCertPool()
	bundle, err := os.ReadFile(w.authority.Client.File())
	if err != nil || !clients.AppendCertsFromPEM(bundle) {
		w.t.Fatal("client authority", err)
	}
	server := httptest.NewUnstartedServer(authenticate(hub))
	server.TLS = &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert},
		ClientCAs: clients, ClientAuth: tls.VerifyClientCertIfGiven, NextProtos: []string{"h2", "http/1.1"},
	}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	w.server = server
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = hub.Run(ctx, func() {}) }()
	w.t.Cleanup(func() {
		cancel()
		<-done
		server.Close()
	})
}

// authenticate does what the API server's filters do before the handler.
func authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) > 0 {
			subject := r.TLS.PeerCertificates[0].Subject
			info := &user.DefaultInfo{Name: subject.CommonName, Groups: subject.Organization}
			r = r.WithContext(request.WithUser(r.Context(), info))
		}
		next.ServeHTTP(w, r)
	})
}

func (w *world) address() string { return w.server.Listener.Addr().String() }

// node registers a Node whose kubelet listens at kubelet, and whose pods are 127.42.1.0/24.
func (w *world) node(name string, kubelet string) {
	n := testNode(name, 1, []string{"127.42.1.0/24"}, "192.0.2.1") // which nobody answers on
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(netip.MustParseAddrPort(kubelet).Port())
	w.hub.nodes.put(n)
}

// certificate issues a client certificate and returns its file.
func (w *world) certificate(name, user string, groups ...string) string {
	w.t.Helper()
	issued, err := w.authority.Client.Ensure(name, pki.Leaf{
		CommonName: user, Organizations: groups, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return issued.Cert
}

// agent runs a node's end of the tunnel until the test ends or stop is called.
func (w *world) agent(name, kubelet string, servers ...string) (a *agenttunnel.Tunnel, stop func()) {
	w.t.Helper()
	if len(servers) == 0 {
		servers = []string{w.address()}
	}
	cert := w.certificate("node-"+name, "system:node:"+name, "system:nodes")
	addr := netip.MustParseAddrPort(kubelet)
	a = agenttunnel.New(agenttunnel.Options{
		Servers:  func() []string { return servers },
		ServerCA: w.authority.Server.File(), ClientCert: cert, ClientKey: cert,
		Policy: agenttunnel.Policy{NodeName: name, KubeletPort: addr.Port(), Kubelet: addr},
		PodRanges: func(context.Context) ([]netip.Prefix, error) {
			return []netip.Prefix{netip.MustParsePrefix("127.42.1.0/24")}, nil
		},
		Logger:     slog.New(slog.DiscardHandler),
		Backoff:    5 * time.Millisecond,
		BackoffMax: 50 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.Run(ctx, func() {}) }()
	stop = func() { cancel(); <-done }
	w.t.Cleanup(stop)
	return a, stop
}

// connected waits until the hub has a session of the node other than old.
func (w *world) connected(name string, old *session) *session {
	w.t.Helper()
	var s *session
	await(w.t, "a tunnel of "+name, func() bool {
		s, _ = w.hub.sessionOf(name)
		return s != nil && s != old
	})
	return s
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (w *world) dial(address string) net.Conn {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	c, err := w.hub.DialContext(ctx, "tcp", address)
	if err != nil {
		w.t.Fatalf("dial %s: %v", address, err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// dialError is the error of a dial that must fail; it must contain want.
func (w *world) dialError(address, want string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	c, err := w.hub.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = c.Close()
		w.t.Fatalf("dial %s succeeded", address)
	}
	if !strings.Contains(err.Error(), want) {
		w.t.Errorf("dial %s: %v; want something with %q", address, err, want)
	}
}
