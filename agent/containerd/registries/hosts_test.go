package registries

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	dockerconfig "github.com/containerd/containerd/v2/core/remotes/docker/config"
)

var testGateway = gatewayAddress{url: "http://127.0.0.1:1", key: "KEY"}

// read renders the files and returns a function that asks containerd's own code
// for the hosts of a registry.
func read(t *testing.T, hosts map[string]registryHosts, cfg Config) func(registry string) []docker.RegistryHost {
	t.Helper()
	root := t.TempDir()
	for dir, h := range hosts {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, dir, "hosts.toml"), h.render(testGateway), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lookup := dockerconfig.ConfigureHosts(t.Context(), dockerconfig.HostOptions{HostDir: dockerconfig.HostDirFromRoot(root)})
	return func(registry string) []docker.RegistryHost {
		t.Helper()
		list, err := lookup(registry)
		if err != nil {
			t.Fatalf("containerd cannot read the hosts of %s: %v\n%+v", registry, err, cfg)
		}
		return list
	}
}

// describe is a host as URL, with what is special about it.
func describe(h docker.RegistryHost) string {
	s := h.Scheme + "://" + h.Host + h.Path
	if h.Header.Get(keyHeader) == "KEY" {
		s += " +key"
	}
	if t, ok := h.Client.Transport.(interface{ String() string }); ok {
		s += t.String()
	}
	return s
}

func TestPlan(t *testing.T) {
	t.Parallel()
	const gw = "http://127.0.0.1:1/ID/v2 +key"
	for name, tc := range map[string]struct {
		yaml      string
		noDefault bool
		// want are the hosts that containerd tries for a registry, in order.
		want map[string][]string
		// routes are the endpoints behind the gateway.
		routes []string
	}{
		"nothing": {want: map[string][]string{"docker.io": {"https://registry-1.docker.io/v2"}, "a.io": {"https://a.io/v2"}}},
		"mirrors in order": {
			yaml: "mirrors: {docker.io: {endpoint: [\"https://one.io\", \"http://two.io:5000/v2/hub\", \"https://three.io/custom\"]}}",
			want: map[string][]string{
				"docker.io": {"https://one.io/v2", "http://two.io:5000/v2/hub", "https://three.io/custom", "https://registry-1.docker.io/v2"},
				"other.io":  {"https://other.io/v2"},
			},
		},
		"wildcard": {
			yaml: "mirrors: {\"*\": {endpoint: [\"https://all.io\"]}, own.io: {endpoint: [\"https://mine.io\"]}}\nconfigs: {set.io:5000: {tls: {insecure_skip_verify: true}}}",
			want: map[string][]string{
				"any.io":      {"https://all.io/v2", "https://any.io/v2"},
				"own.io":      {"https://mine.io/v2", "https://own.io/v2"},
				"set.io:5000": {"https://all.io/v2", "https://set.io:5000/v2"},
			},
		},
		"no default endpoint": {
			yaml:      "mirrors: {\"*\": {endpoint: [\"https://one.io\", \"https://two.io\"]}, bare.io: {}}",
			noDefault: true,
			want: map[string][]string{
				"any.io":  {"https://one.io/v2", "https://two.io/v2"},
				"bare.io": {"https://bare.io/v2"}, // it has no mirror that could take its place
			},
		},
		"auth of a mirror": {
			yaml:   "mirrors: {a.io: {endpoint: [\"https://m.io\"]}}\nconfigs: {m.io: {auth: {username: u, password: p}}}",
			want:   map[string][]string{"a.io": {gw, "https://a.io/v2"}, "m.io": {gw}},
			routes: []string{"https://m.io/v2", "https://m.io/v2"},
		},
		"auth of docker.io": {
			yaml:   "configs: {registry-1.docker.io: {auth: {username: u, password: p}}}",
			want:   map[string][]string{"docker.io": {gw}},
			routes: []string{"https://registry-1.docker.io/v2"},
		},
		"rewrite": {
			yaml:   "mirrors: {a.io: {endpoint: [\"https://m.io\"], rewrite: {a: b}}}",
			want:   map[string][]string{"a.io": {gw, "https://a.io/v2"}},
			routes: []string{"https://m.io/v2"},
		},
		"on this machine": {
			yaml:   "configs: {\"localhost:5000\": {auth: {username: u, password: p}}}",
			want:   map[string][]string{"localhost:5000": {gw}},
			routes: []string{"http://localhost:5000/v2"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg, err := Parse("f", []byte(tc.yaml))
			if err != nil {
				t.Fatal(err)
			}
			p := planFor(cfg, !tc.noDefault)
			hostsOf := read(t, p.hosts, cfg)
			for registry, want := range tc.want {
				var got []string
				for _, h := range hostsOf(registry) {
					d := describe(h)
					for id := range p.routes {
						d = strings.ReplaceAll(d, id, "ID")
					}
					got = append(got, d)
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%s: got %q, want %q", registry, got, want)
				}
			}
			var endpoints []string
			for _, r := range p.routes {
				endpoints = append(endpoints, r.endpoint.String())
			}
			if len(endpoints) != len(tc.routes) || len(endpoints) > 0 && endpoints[0] != tc.routes[0] {
				t.Errorf("routes %v", endpoints)
			}
		})
	}
}

func TestRenderTLS(t *testing.T) {
	t.Parallel()
	h := registryHosts{last: hostEntry{tls: TLS{CAFile: "/a \"quoted\".pem", CertFile: "/c.pem", KeyFile: "/k.pem", InsecureSkipVerify: true}}}
	want := generatedMark + "ca = [\"/a \\\"quoted\\\".pem\"]\nclient = [[\"/c.pem\", \"/k.pem\"]]\nskip_verify = true\n"
	if got := string(h.render(testGateway)); got != want {
		t.Errorf("got\n%s", got)
	}
}

// TestWrite: stale files go, those of others stay, nothing is written twice.
func TestWrite(t *testing.T) {
	t.Parallel()
	certs := filepath.Join(t.TempDir(), "certs.d")
	r := &Registries{opts: Options{CertsDir: certs, Logger: slog.New(slog.DiscardHandler)}}
	file := func(s string) []byte { return []byte(generatedMark + s) }
	write := func(want bool, files map[string][]byte) {
		t.Helper()
		changed, err := r.write(files)
		if err != nil || changed != want {
			t.Fatalf("changed %v, %v", changed, err)
		}
	}
	exists := func(p string) bool {
		_, err := os.Stat(filepath.Join(certs, p))
		return err == nil
	}
	write(false, nil)
	write(true, map[string][]byte{"a.io": file("1"), "b.io": file("1")})
	write(false, map[string][]byte{"a.io": file("1"), "b.io": file("1")})
	if info, err := os.Stat(filepath.Join(certs, "a.io/hosts.toml")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for _, p := range []string{"mine.io/hosts.toml", "b.io/ca.crt"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(certs, p)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(certs, p), []byte("my own"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(true, map[string][]byte{"mine.io": file("2")})
	if exists("a.io") || exists("b.io/hosts.toml") || !exists("b.io/ca.crt") {
		t.Error("the wrong files were removed")
	}
	if b, err := os.ReadFile(filepath.Join(certs, "mine.io/hosts.toml")); err != nil || string(b) != "my own" {
		t.Errorf("a file of someone else: %s, %v", b, err)
	}
}
