package loadbalancer

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/testenv"
)

// authority issues certificates for 127.0.0.1.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{key, cert}
}

func (a *authority) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func (a *authority) issue(t *testing.T) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{{127, 0, 0, 1}},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
}

// apiserver is a real HTTPS server: GET /name tells who it is, /stream never
// ends, /readyz follows unready.
type apiserver struct {
	name    string
	addr    string
	unready atomic.Bool
	probes  atomic.Int64

	cert tls.Certificate
	mu   sync.Mutex
	srv  *http.Server
}

func startServer(t *testing.T, ca *authority, name string) *apiserver {
	t.Helper()
	s := &apiserver{name: name, addr: "127.0.0.1:0", cert: ca.issue(t)}
	s.start(t)
	t.Cleanup(s.stop)
	return s
}

// start listens, on the same address as before if there was one.
func (s *apiserver) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("/name", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s.name) })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		s.probes.Add(1)
		if s.unready.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, s.name+"\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	s.mu.Lock()
	s.srv = srv
	s.mu.Unlock()
	go func() {
		_ = srv.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{s.cert}, MinVersion: tls.VersionTLS12}))
	}()
}

// stop is the end of the process: connections are closed.
func (s *apiserver) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.srv.Close()
}

// run starts a balancer and returns it with the address it listens on.
func run(t *testing.T, opts Options) (*Balancer, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // a free port
	if err != nil {
		t.Fatal(err)
	}
	opts.Listen = l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	opts.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- b.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("Run: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
		if n := b.Status().Connections; n != 0 {
			t.Errorf("%d connections are left", n)
		}
	})
	return b, opts.Listen
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", p)
	return len(p), nil
}

// client verifies what it speaks to, and makes a connection for each request.
func client(ca *authority) *http.Client {
	return &http.Client{
		Timeout: 20 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: ca.roots(), MinVersion: tls.VersionTLS12}, DisableKeepAlives: true,
		},
	}
}

// ask returns who answers.
func ask(c *http.Client, listen string) (string, error) {
	resp, err := c.Get("https://" + listen + "/name")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func mustAnswer(t *testing.T, c *http.Client, listen, want string) {
	t.Helper()
	got, err := ask(c, listen)
	if err != nil || got != want {
		t.Fatalf("answered by %q, %v; want %q", got, err, want)
	}
}

// stream opens a connection that stays, and returns a channel that is closed at its end.
func stream(t *testing.T, c *http.Client, listen string) (from string, ended <-chan struct{}) {
	t.Helper()
	long := *c
	long.Timeout = 0
	resp, err := long.Get("https://" + listen + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	r := bufio.NewReader(resp.Body)
	if from, err = r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.ReadByte()
	}()
	return from[:len(from)-1], done
}

// within fails unless the channel is closed in time.
func within(t *testing.T, limit time.Duration, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(limit):
		t.Fatalf("not within %s: %s", limit, what)
	}
}

// await waits until the balancer's state is as wanted.
func await(t *testing.T, b *Balancer, what string, ok func(Status) bool) {
	t.Helper()
	limit := time.After(15 * time.Second)
	for {
		changed := b.Changed()
		if ok(b.Status()) {
			return
		}
		select {
		case <-changed:
		case <-time.After(100 * time.Millisecond): // numbers of connections announce themselves by nothing
		case <-limit:
			t.Fatalf("%s: not within 15 s; %+v", what, b.Status())
		}
	}
}

func stateOf(s Status, addr string) State {
	for _, srv := range s.Servers {
		if srv.Address == addr {
			return srv.State
		}
	}
	return ""
}

// mute accepts connections and never says a word.
func mute(t *testing.T) string {
	t.Helper()
	return testenv.Listen(t, testenv.Loopback, func(net.Conn) {})
}

// resetter accepts connections and resets them.
func resetter(t *testing.T) string {
	t.Helper()
	return testenv.Listen(t, testenv.Loopback, func(conn net.Conn) {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	})
}

// refuser is an address where nobody listens.
func refuser(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// blackHole is an address that takes no notice of attempts to connect, as
// behind a cut link: a listener whose queue is full.
func blackHole(t *testing.T) string {
	t.Helper()
	addr, err := fullListener(t)
	if err != nil {
		t.Fatal(err)
	}
	var held []net.Conn
	t.Cleanup(func() {
		for _, c := range held {
			_ = c.Close()
		}
	})
	for range 16 {
		conn, err := net.DialTimeout("tcp", addr, 200*time.Millisecond)
		var netErr net.Error
		if errors.As(err, &netErr) && netErr.Timeout() {
			return addr
		}
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	t.Fatal(fmt.Errorf("the queue of %s does not fill", addr))
	return ""
}
