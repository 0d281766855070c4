package join

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	joincfg "github.com/limpetio/limpet/internal/join"
	"github.com/limpetio/limpet/internal/nodeid"
	"github.com/limpetio/limpet/internal/pki"
	"github.com/limpetio/limpet/internal/testenv"
	"github.com/limpetio/limpet/internal/token"
)

const ownVersion = "v1.37.2"

// cluster is the API of a server as far as joining goes, over real TLS. What a
// real server answers is for the end-to-end tests; here it can answer wrongly.
type cluster struct {
	*httptest.Server
	t         *testing.T
	authority *pki.Authority
	token     token.Token
	settings  joincfg.Config

	// What it answers; the zero value is a server that agrees.
	cacerts   func(http.ResponseWriter)
	token401  bool
	verdict   string
	condition *certificatesv1.CertificateSigningRequestCondition
	requests  int
}

// start runs a server with a certificate for names, issued at the time now.
func start(t *testing.T, now time.Time, names ...string) *cluster {
	t.Helper()
	authority, err := pki.Open(t.TempDir(), pki.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	leaf := pki.Leaf{CommonName: "kube-apiserver", DNSNames: names, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if len(names) == 0 {
		leaf.IPs = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	issued, err := authority.Server.Ensure("kube-apiserver", leaf)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(issued.Cert, issued.Key)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, authority: authority}
	root, _ := pem.Decode([]byte(read(t, authority.Server.File())))
	c.token = token.Generate().WithCA(token.HashCA(root.Bytes))
	c.settings = joincfg.Config{
		Version:     joincfg.Version,
		ClusterCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, ServiceCIDR: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
		ClusterDomain: "cluster.local", FlannelBackend: "vxlan", Servers: []string{"192.0.2.1:6443"},
		ServerCA: read(t, authority.Server.File()), ClientCA: read(t, authority.Client.File()),
		KubernetesVersion: ownVersion,
	}
	c.Server = httptest.NewUnstartedServer(c.mux())
	c.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	c.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	c.StartTLS()
	t.Cleanup(c.Close)
	return c
}

func (c *cluster) mux() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /cacerts", func(w http.ResponseWriter, _ *http.Request) {
		if c.cacerts != nil {
			c.cacerts(w)
			return
		}
		_, _ = w.Write([]byte(c.settings.ServerCA))
	})
	mux.HandleFunc("GET /api/v1/namespaces/kube-system/configmaps/limpet-join", c.authenticated(func(w http.ResponseWriter, _ *http.Request) {
		data, err := json.Marshal(c.settings)
		if err != nil {
			c.t.Error(err)
		}
		answer(w, http.StatusOK, &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, Data: map[string]string{joincfg.Key: string(data)}})
	}))
	mux.HandleFunc("POST "+checkPath, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			c.t.Error("the token was sent in a header")
		}
		_, _ = w.Write([]byte(c.verdict))
	})
	mux.HandleFunc("/apis/certificates.k8s.io/v1/certificatesigningrequests", c.authenticated(c.certificateRequests))
	return mux
}

func (c *cluster) authenticated(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if c.token401 || r.Header.Get("Authorization") != "Bearer "+c.token.Bootstrap() {
			answer(w, http.StatusUnauthorized, &metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Failure", Reason: metav1.StatusReasonUnauthorized, Code: 401})
			return
		}
		next(w, r)
	}
}

// certificateRequests takes a request, and decides on it in the watch.
func (c *cluster) certificateRequests(w http.ResponseWriter, r *http.Request) {
	csr := &certificatesv1.CertificateSigningRequest{
		TypeMeta:   metav1.TypeMeta{APIVersion: "certificates.k8s.io/v1", Kind: "CertificateSigningRequest"},
		ObjectMeta: metav1.ObjectMeta{Name: "limpet-join-1", UID: "1"},
	}
	if r.Method == http.MethodPost {
		c.requests++
		answer(w, http.StatusCreated, csr)
		return
	}
	if c.condition != nil {
		csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{*c.condition}
	}
	answer(w, http.StatusOK, &struct {
		Type   string `json:"type"`
		Object any    `json:"object"`
	}{"ADDED", csr})
}

func answer(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object)
}

// options are those of a machine that knows the cluster's token.
func (c *cluster) options() Options {
	key, err := nodeid.Generate()
	if err != nil {
		c.t.Fatal(err)
	}
	return Options{
		Server: c.URL, Token: c.token.String(), NodeName: "n2", Files: Files{Dir: filepath.Join(c.t.TempDir(), "agent")},
		Identity: key, KubernetesVersion: ownVersion, Logger: slog.New(slog.NewTextHandler(c.t.Output(), nil)),
	}
}

// plain answers every connection with a text, without TLS.
func plain(t *testing.T, text string) string {
	t.Helper()
	return "https://" + testenv.Listen(t, testenv.Loopback, func(conn net.Conn) {
		defer conn.Close()
		_, _ = conn.Read(make([]byte, 1024))
		_, _ = conn.Write([]byte(text))
	})
}

func swapSecret(t *testing.T, full string) string {
	t.Helper()
	head, _, ok := strings.Cut(full, ".")
	if !ok {
		t.Fatal("no secret in the token")
	}
	return head + ".aaaaaaaaaaaaaaaa"
}
