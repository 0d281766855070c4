package join

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"net/netip"
	"strings"
	"testing"
)

func caPEM(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func valid(t testing.TB) Config {
	ca := caPEM(t)
	return Config{
		Version:     Version,
		ClusterCIDR: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/56")},
		ServiceCIDR: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd00:43::/112")},
		ClusterDNS:  []netip.Addr{netip.MustParseAddr("10.43.0.10")}, ClusterDomain: "cluster.local",
		FlannelBackend: "vxlan", ServerCA: ca, ClientCA: ca + ca,
		Servers:           []string{"192.0.2.1:6443", "[2001:db8::1]:6443", "mast.example.com:443"},
		Disable:           []string{"coredns"},
		KubernetesVersion: "v1.37.2", LimpetVersion: "v0.4.0",
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	want := valid(t)
	data, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if !got.Equal(want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	want.Disable = nil
	if got.Equal(want) {
		t.Error("two that differ are called equal")
	}
}

func TestDiffersNamesWhatANodeRunsBy(t *testing.T) {
	t.Parallel()
	a, b := valid(t), valid(t)
	b.ServerCA, b.ClientCA = a.ServerCA, a.ClientCA
	b.Servers, b.LimpetVersion, b.KubernetesVersion = b.Servers[:1], "v9.0.0", "v1.99.0"
	if got := a.Differs(b); got != "" {
		t.Errorf("%s is said to differ", got)
	}
	b.Disable = nil
	if got := a.Differs(b); got != "disable" {
		t.Errorf("got %q, want disable", got)
	}
}

func TestNewerFieldsAreIgnored(t *testing.T) {
	t.Parallel()
	data, err := valid(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse([]byte(strings.Replace(string(data), "{", `{"later":1,`, 1))); err != nil {
		t.Error(err)
	}
}

func TestOtherFormatIsNamed(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`{"version":2,"clusterCIDR":"of another type"}`, `{}`} {
		var e *VersionError
		if _, err := Parse([]byte(text)); !errors.As(err, &e) {
			t.Errorf("%s: got %v, want a VersionError", text, err)
		}
	}
}

func TestDefectsAreNamed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		field  string
		change func(*Config)
	}{
		{"clusterCIDR", func(c *Config) { c.ClusterCIDR = nil }},
		{"clusterCIDR", func(c *Config) { c.ClusterCIDR[1] = c.ClusterCIDR[0] }},
		{"serviceCIDR", func(c *Config) { c.ServiceCIDR[0] = netip.Prefix{} }},
		{"clusterDNS", func(c *Config) { c.ClusterDNS = []netip.Addr{netip.MustParseAddr("192.0.2.1")} }},
		{"clusterDomain", func(c *Config) { c.ClusterDomain = "../etc" }},
		{"flannelBackend", func(c *Config) { c.FlannelBackend = "ipsec" }},
		{"serverCA", func(c *Config) { c.ServerCA = "" }},
		{"serverCA", func(c *Config) { c.ServerCA += "trailing" }},
		{"clientCA", func(c *Config) { c.ClientCA = strings.ReplaceAll(c.ClientCA, "CERTIFICATE", "PRIVATE KEY") }},
		{"servers", func(c *Config) { c.Servers = nil }},
		{"servers", func(c *Config) { c.Servers = []string{"192.0.2.1"} }},
		{"servers", func(c *Config) { c.Servers = []string{"192.0.2.1:0"} }},
		{"servers", func(c *Config) { c.Servers = []string{"a b:1"} }},
		{"kubernetesVersion", func(c *Config) { c.KubernetesVersion = "new" }},
	}
	for _, tt := range tests {
		c := valid(t)
		tt.change(&c)
		if _, err := c.Marshal(); err == nil || !strings.Contains(err.Error(), tt.field+":") {
			t.Errorf("%s: Marshal gave %v", tt.field, err)
		}
		data, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(data); err == nil {
			t.Errorf("%s: Parse took the defect", tt.field)
		}
	}
}

func FuzzParse(f *testing.F) {
	data, err := valid(f).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":1,"servers":[":1"],"clusterCIDR":["0.0.0.0/33"]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		again, err := c.Marshal()
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if d, err := Parse(again); err != nil || !d.Equal(c) {
			t.Fatalf("what was written reads differently: %v", err)
		}
	})
}
