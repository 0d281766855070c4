package join

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/util/certificate"

	joincfg "github.com/limpetio/limpet/internal/join"
	"github.com/limpetio/limpet/internal/pki"
	"github.com/limpetio/limpet/internal/token"
)

func TestParseServer(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"https://10.0.0.5:6443":   "10.0.0.5:6443",
		"https://mast.example/":   "mast.example:443",
		"https://[fd00::5]:6443":  "[fd00::5]:6443",
		"http://10.0.0.5:6443":    "code 26",
		"ssh://10.0.0.5":          "code 24",
		"10.0.0.5:6443":           "code 24",
		"":                        "code 24",
		"https://":                "code 24",
		"https://a b":             "code 24",
		"https://%zz":             "code 24",
		"https://mast.example:99": "mast.example:99",
	} {
		base, got, err := ParseServer(text)
		var e *Error
		switch {
		case errors.As(err, &e):
			got = "code " + map[Code]string{PlainHTTP: "26", NoServer: "24"}[e.Code]
		case base != "https://"+got:
			t.Errorf("%s: base is %s", text, base)
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestCheckSkew(t *testing.T) {
	t.Parallel()
	for server, ok := range map[string]bool{
		"v1.37.0": true, "v1.37.9+limpet": true, "v1.38.0": true, "v1.40.1": true,
		"v1.41.0": false, "v1.36.5": false, "v2.37.0": false, "nonsense": false,
	} {
		if err := checkSkew(ownVersion, joincfg.Config{KubernetesVersion: server}); (err == nil) != ok {
			t.Errorf("%s joins %s: %v", ownVersion, server, err)
		}
	}
}

// joined writes what a machine that has joined keeps.
func joined(t *testing.T, c *cluster, user string) Options {
	t.Helper()
	o := c.options()
	leaf, err := c.authority.Client.Ensure("kubelet-of-"+user, pki.Leaf{CommonName: user, Organizations: []string{"system:nodes"}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		t.Fatal(err)
	}
	pem := read(t, leaf.Cert)
	i := strings.Index(pem, "-----BEGIN PRIVATE KEY")
	g := &Grant{Settings: c.settings, pair: keyPair{cert: []byte(pem[:i]), key: []byte(pem[i:])}}
	if err := g.Save(o.Files); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestMemberNeedsNoServerAndNoToken(t *testing.T) {
	t.Parallel()
	c := start(t, time.Now())
	o := joined(t, c, "system:node:n2")
	c.Close()
	for _, text := range []string{"", "nonsense", c.token.String(), swapSecret(t, c.token.String()), c.token.Bootstrap()} {
		o.Token = text
		if got, err := Load(o); err != nil || !got.Equal(c.settings) {
			t.Errorf("token of %d characters: %v", len(text), err)
		}
	}
	if info, err := os.Stat(o.Files.Client(Kubelet)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's file: %v, %v", info, err)
	}
}

func TestWhoHasToJoin(t *testing.T) {
	t.Parallel()
	c := start(t, time.Now())
	for name, tt := range map[string]struct {
		change func(*testing.T, *Options)
		want   string
	}{
		"another node name":   {func(_ *testing.T, o *Options) { o.NodeName = "n3" }, "certificate is of system:node:n2"},
		"expired":             {func(_ *testing.T, o *Options) { o.Now = func() time.Time { return time.Now().AddDate(2, 0, 0) } }, "has expired"},
		"another cluster":     {func(_ *testing.T, o *Options) { o.Token = token.Generate().WithCA(token.HashCA(nil)).String() }, "another cluster"},
		"no settings":         {func(t *testing.T, o *Options) { write(t, o.Files.Settings(), "") }, "join.json"},
		"torn certificate":    {func(t *testing.T, o *Options) { write(t, o.Files.Client(Kubelet), "") }, "kubelet-client-current.pem"},
		"foreign certificate": {func(t *testing.T, o *Options) { foreign(t, o) }, "another authority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := joined(t, c, "system:node:n2")
			tt.change(t, &o)
			if _, err := Load(o); !errors.Is(err, ErrNotJoined) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	// A clock that has fallen behind does not take away the membership.
	o := joined(t, c, "system:node:n2")
	o.Now = func() time.Time { return time.Unix(0, 0) }
	if _, err := Load(o); err != nil {
		t.Errorf("in 1970: %v", err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func foreign(t *testing.T, o *Options) {
	t.Helper()
	other := joined(t, start(t, time.Now()), "system:node:n2")
	write(t, o.Files.Client(Kubelet), read(t, other.Files.Client(Kubelet)))
}

// A machine that joins another cluster keeps nothing of the first; one that
// joins the same again keeps its servers and the record of its pods.
func TestSaveForgets(t *testing.T) {
	t.Parallel()
	c := start(t, time.Now())
	for name, tt := range map[string]struct {
		next  *cluster
		stays bool
	}{"another cluster": {start(t, time.Now()), false}, "the same": {c, true}} {
		o := joined(t, c, "system:node:n2")
		proxy := o.Files.Client("kube-proxy")
		record := filepath.Join(o.Files.Cache(), "pods")
		if err := os.MkdirAll(o.Files.Cache(), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{proxy, record, o.Files.Servers()} {
			write(t, path, "x")
		}
		from := joined(t, tt.next, "system:node:n2")
		pem := read(t, from.Files.Client(Kubelet))
		i := strings.Index(pem, "-----BEGIN PRIVATE KEY")
		g := &Grant{Settings: tt.next.settings, pair: keyPair{cert: []byte(pem[:i]), key: []byte(pem[i:])}}
		if err := g.Save(o.Files); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(proxy); err == nil {
			t.Errorf("%s: the old certificate of kube-proxy is there", name)
		}
		for _, path := range []string{record, o.Files.Servers()} {
			if _, err := os.Stat(path); (err == nil) != tt.stays {
				t.Errorf("%s: %s: %v", name, path, err)
			}
		}
		if _, err := Load(o); err != nil && tt.stays {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCertStore(t *testing.T) {
	t.Parallel()
	c := start(t, time.Now())
	o := joined(t, c, "system:node:n2")
	s := &CertStore{Path: o.Files.Client(Kubelet)}
	if pair, err := s.Current(); err != nil || pair.Leaf.Subject.CommonName != "system:node:n2" {
		t.Fatalf("own pair: %v", err)
	}
	before := read(t, s.Path)
	if _, err := s.Update([]byte("no"), []byte("pair")); err == nil {
		t.Error("what is no pair was stored")
	}
	if read(t, s.Path) != before {
		t.Error("a failed update changed the file")
	}
	for _, content := range []string{"", before[:len(before)/2]} {
		write(t, s.Path, content)
		var missing *certificate.NoCertKeyError
		if _, err := s.Current(); !errors.As(err, &missing) {
			t.Errorf("a torn file: %v", err)
		}
	}
}
