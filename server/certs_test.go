package server

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/pki"
)

func certConfig() config.Server {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	return config.Server{
		Node:             config.Node{NodeName: "pump-7", NodeIP: []netip.Addr{addr("192.0.2.7"), addr("2001:db8::7")}},
		BindAddress:      addr("0.0.0.0"),
		AdvertiseAddress: addr("192.0.2.8"),
		HTTPSListenPort:  6443,
		TLSSANs:          []string{"Edge.example", "198.51.100.1"},
		ServiceCIDR:      []netip.Prefix{prefix("10.43.0.0/16"), prefix("fd00:43::/112")},
		ClusterDomain:    "site.local",
	}
}

var certTime = time.Date(2027, time.March, 1, 12, 0, 0, 0, time.UTC)

func ensure(t *testing.T, cfg config.Server, dir string) *Certificates {
	t.Helper()
	c, err := ensureCertificates(cfg, dir, certTime, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func leafAt(t *testing.T, pair pki.KeyPair) *x509.Certificate {
	t.Helper()
	both, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return both.Leaf
}

func TestCertificatesServe(t *testing.T) {
	t.Parallel()
	c := ensure(t, certConfig(), filepath.Join(t.TempDir(), "tls"))
	pem, err := os.ReadFile(c.ServerCA)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	for _, tt := range []struct {
		pair  pki.KeyPair
		names []string
		alien string
	}{
		{c.APIServer, []string{"localhost", "127.0.0.1", "::1", "pump-7", "192.0.2.7", "2001:db8::7", "192.0.2.8", "edge.example", "198.51.100.1",
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.site.local", "10.43.0.1", "fd00:43::1"}, "10.43.0.2"},
		{c.KubeletServing, []string{"pump-7", "192.0.2.7", "2001:db8::7", "127.0.0.1"}, "192.0.2.8"},
	} {
		leaf := leafAt(t, tt.pair)
		for _, name := range tt.names {
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, CurrentTime: certTime}); err != nil {
				t.Errorf("%s as %s: %v", leaf.Subject, name, err)
			}
		}
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: tt.alien, CurrentTime: certTime}); err == nil {
			t.Errorf("%s verified as %s", leaf.Subject, tt.alien)
		}
	}
}

func TestCertificatesIdentify(t *testing.T) {
	t.Parallel()
	c := ensure(t, certConfig(), filepath.Join(t.TempDir(), "tls"))
	for _, tt := range []struct {
		pair   pki.KeyPair
		ca     string
		user   string
		groups []string
	}{
		{c.Admin.KeyPair, c.ClientCA, "system:admin", []string{"system:masters"}},
		{c.ControllerManager.KeyPair, c.ClientCA, "system:kube-controller-manager", nil},
		{c.Scheduler.KeyPair, c.ClientCA, "system:kube-scheduler", nil},
		{c.KubeletClient, c.ClientCA, "kube-apiserver-kubelet-client", nil},
		{c.Kubelet.KeyPair, c.ClientCA, "system:node:pump-7", []string{"system:nodes"}},
		{c.Proxy.KeyPair, c.ClientCA, "limpet:kube-proxy:pump-7", []string{"limpet:kube-proxy"}},
		{c.Network.KeyPair, c.ClientCA, "limpet:network:pump-7", []string{"limpet:network"}},
		{c.DNS.KeyPair, c.ClientCA, "limpet:dns:pump-7", []string{"limpet:dns"}},
		{c.Deploy.KeyPair, c.ClientCA, "limpet:deploy", []string{"system:masters"}},
		{c.FrontProxy, c.RequestHeaderCA, frontProxyName, nil},
	} {
		leaf := leafAt(t, tt.pair)
		if leaf.Subject.CommonName != tt.user || !slices.Equal(leaf.Subject.Organization, tt.groups) {
			t.Errorf("got %s, want user %s in groups %v", leaf.Subject, tt.user, tt.groups)
		}
		pem, err := os.ReadFile(tt.ca)
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
		for usage, accepted := range map[x509.ExtKeyUsage]bool{x509.ExtKeyUsageClientAuth: true, x509.ExtKeyUsageServerAuth: false} {
			_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: certTime, KeyUsages: []x509.ExtKeyUsage{usage}})
			if (err == nil) != accepted {
				t.Errorf("%s for usage %v: %v", tt.user, usage, err)
			}
		}
	}
}

func TestKubeconfigsReachTheServer(t *testing.T) {
	t.Parallel()
	for bind, want := range map[string]string{
		"0.0.0.0": "https://127.0.0.1:6443", "::": "https://[::1]:6443", "192.0.2.9": "https://192.0.2.9:6443",
	} {
		cfg := certConfig()
		cfg.BindAddress = netip.MustParseAddr(bind)
		c := ensure(t, cfg, filepath.Join(t.TempDir(), "tls"))
		rest, err := clientcmd.BuildConfigFromFlags("", c.Scheduler.Kubeconfig)
		if err != nil {
			t.Fatal(err)
		}
		if rest.Host != want || rest.CAFile != c.ServerCA || rest.CertFile != c.Scheduler.Cert {
			t.Errorf("bound to %s: host %s, ca %s, certificate %s", bind, rest.Host, rest.CAFile, rest.CertFile)
		}
		if err := leafAt(t, c.APIServer).VerifyHostname(strings.TrimSuffix(strings.TrimPrefix(want, "https://"), ":6443")); err != nil {
			t.Errorf("bound to %s: %v", bind, err)
		}
	}
}

func TestCertificatesAreReusedUntilNamesChange(t *testing.T) {
	t.Parallel()
	dir, cfg := filepath.Join(t.TempDir(), "tls"), certConfig()
	before := snapshotAfter(t, cfg, dir)
	if again := snapshotAfter(t, cfg, dir); !maps.Equal(before, again) {
		t.Error("a second start changed files")
	}
	cfg.NodeIP = []netip.Addr{netip.MustParseAddr("192.0.2.99")}
	after := snapshotAfter(t, cfg, dir)
	for path, content := range before {
		changed := after[path] != content
		want := path == "tls/kube-apiserver.pem" || path == "tls/kubelet-serving.pem"
		if changed != want {
			t.Errorf("%s changed: %v, want %v, when the node's address changed", path, changed, want)
		}
	}
}

func TestCertificatesWithoutAgent(t *testing.T) {
	t.Parallel()
	cfg := certConfig()
	cfg.DisableAgent = true
	dir := filepath.Join(t.TempDir(), "tls")
	c := ensure(t, cfg, dir)
	if c.Kubelet.Cert != "" || c.KubeletServing.Cert != "" {
		t.Errorf("a server without agent got node certificates: %+v", c.Kubelet)
	}
}

// snapshotAfter is a start: it maps every file of tls and cred to its content.
func snapshotAfter(t *testing.T, cfg config.Server, dir string) map[string]string {
	t.Helper()
	ensure(t, cfg, dir)
	root := filepath.Dir(dir)
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(root, path)
		files[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
