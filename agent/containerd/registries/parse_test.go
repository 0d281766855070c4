package registries

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	t.Parallel()
	pem := filepath.Join(t.TempDir(), "some.pem")
	if err := os.WriteFile(pem, []byte("pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Parse("registries.yaml", []byte(`
# everything at once
mirrors:
  docker.io:
    endpoint:
      - https://Mirror.example.com
      - http://10.0.0.1:5000/
      - https://harbor.example.com/v2/hub
    rewrite:
      "^library/(.*)": "hub/$1"
      "(.*)": "all/$1"
  "*": &all
    endpoint: ["https://cache.example.com"]
  "ghcr.io:443": *all
  empty.example.com:
configs:
  mirror.example.com:
    auth: {username: edge, password: "0123"}
    tls: {ca_file: `+pem+`, cert_file: `+pem+`, key_file: `+pem+`}
  10.0.0.1:5000:
    auth: {auth: ZWRnZTpwYXNz}
    tls: {insecure_skip_verify: true}
  token.example.com:
    auth: {identity_token: abc}
`))
	if err != nil {
		t.Fatal(err)
	}
	hub := cfg.Mirrors["docker.io"]
	var urls []string
	for _, e := range hub.Endpoints {
		urls = append(urls, e.String())
	}
	if want := []string{"https://mirror.example.com/v2", "http://10.0.0.1:5000/v2", "https://harbor.example.com/v2/hub"}; !reflect.DeepEqual(urls, want) {
		t.Errorf("endpoints %v", urls)
	}
	for in, want := range map[string]string{"library/busybox": "hub/busybox", "other/thing": "all/other/thing"} {
		if got := rewrite(hub.Rewrites, in); got != want {
			t.Errorf("rewrite of %s: %s", in, got)
		}
	}
	if len(cfg.Mirrors) != 4 || len(cfg.Mirrors["ghcr.io:443"].Endpoints) != 1 {
		t.Errorf("mirrors %v", cfg.Mirrors)
	}
	want := map[string]Host{
		"mirror.example.com": {Auth: Auth{Username: "edge", Password: "0123"}, TLS: TLS{CAFile: pem, CertFile: pem, KeyFile: pem}},
		"10.0.0.1:5000":      {Auth: Auth{Username: "edge", Password: "pass"}, TLS: TLS{InsecureSkipVerify: true}},
		"token.example.com":  {Auth: Auth{IdentityToken: "abc"}},
	}
	if !reflect.DeepEqual(cfg.Hosts, want) {
		t.Errorf("hosts %+v", cfg.Hosts)
	}
}

func TestParseErrors(t *testing.T) {
	t.Parallel()
	for yaml, want := range map[string]string{
		"mirors: {}":                                                                 `f:1: unknown key "mirors" in the file: did you mean "mirrors"?`,
		"mirrors:\n  a.io:\n    endpoints: []":                                       `f:3: unknown key "endpoints" in mirror a.io: did you mean "endpoint"?`,
		"mirrors:\n  a.io:\n    zzzzzz: []":                                          `f:3: unknown key "zzzzzz" in mirror a.io: it can have endpoint, rewrite`,
		"configs:\n  a.io:\n    auth:\n      user: x":                                `did you mean "username"?`,
		"mirrors:\n  https://a.io: {}":                                               `f:2: "https://a.io" is not a registry`,
		"mirrors:\n  a.io/path: {}":                                                  "is not a registry",
		"configs:\n  \"*\": {}":                                                      "is not a registry",
		"mirrors:\n  ../../etc: {}":                                                  "is not a registry",
		"mirrors:\n  ..: {}":                                                         "is not a registry",
		"mirrors:\n  a.io: {}\n  a.io: {}":                                           `f:3: "a.io" is in mirrors twice`,
		"mirrors:\n  a.io:\n    endpoint: https://b.io":                              "f:3: endpoint must be a list",
		"mirrors:\n  a.io:\n    endpoint: [b.io]":                                    `f:3: endpoint "b.io" is not an URL`,
		"mirrors:\n  a.io:\n    endpoint: [ftp://b.io]":                              "is not an URL",
		"mirrors:\n  a.io:\n    endpoint: [\"https://b?c\"]":                         "must not have a query",
		"mirrors:\n  a.io:\n    endpoint: [{a: b}]":                                  "must be a string",
		"mirrors:\n  a.io:\n    rewrite: {\"(\": x}":                                 `rewrite "(" is not a regular expression`,
		"mirrors: [a]":                                                               "f:1: mirrors must be a mapping",
		"configs:\n  a.io:\n    auth: {username: x}":                                 "f:3: username and password go together",
		"configs:\n  a.io:\n    auth: {auth: \"%%\"}":                                "base64",
		"configs:\n  a.io:\n    auth: {username: x, password: y, identity_token: z}": "either identity_token or",
		"configs:\n  a.io:\n    tls: {ca_file: some.pem}":                            "must be an absolute path",
		"configs:\n  a.io:\n    tls: {ca_file: /no/such.pem}":                        "no such file",
		"configs:\n  a.io:\n    tls: {insecure_skip_verify: maybe}":                  "must be true or false",
		"configs:\n  a.io:\n    tls: {cert_file: /dev/null}":                         "go together",
		"auths: {}":       "f:1: auths is not supported any more",
		"a: b: c":         "f: yaml: ",
		"- mirrors":       "f:1: the file must be a mapping",
		"mirrors: {a: 1}": "f:1: mirror a must be a mapping",
	} {
		_, err := Parse("f", []byte(yaml))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", yaml, err, want)
		}
	}
}

// Everything that is wrong is said at once, and no password is.
func TestParseAllErrorsNoSecrets(t *testing.T) {
	t.Parallel()
	_, err := Parse("f", []byte("mirors: {}\nconfigs:\n  a.io:\n    auth: {password: topsecret, pasword: topsecret}\nmirrors:\n  b.io: {endpoint: [\"https://u:topsecret@b.io\"]}\n"))
	if err == nil || strings.Count(err.Error(), "\n") != 3 {
		t.Errorf("got %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "topsecret") {
		t.Errorf("the password is in it: %v", err)
	}
}

func TestLoadAbsent(t *testing.T) {
	t.Parallel()
	cfg, err := Load(filepath.Join(t.TempDir(), "absent"))
	if err != nil || len(cfg.Mirrors)+len(cfg.Hosts) != 0 {
		t.Errorf("got %v, %v", cfg, err)
	}
}

// FuzzParse: whatever is accepted must give files that stay in their directory
// and that containerd reads as they were meant.
func FuzzParse(f *testing.F) {
	f.Add("mirrors:\n  docker.io:\n    endpoint: [\"https://a.io\", \"http://b:5000/x\"]\n    rewrite: {\"^a\": \"b\"}\nconfigs:\n  a.io:\n    auth: {username: x, password: y}\n")
	f.Add("mirrors:\n  \"*\": &x\n    endpoint: [\"https://a.io\"]\n  \"[::1]:5000\": *x\n")
	f.Add("configs:\n  a.io: {tls: {insecure_skip_verify: yes}, auth: {auth: YTpi}}\n")
	f.Fuzz(func(t *testing.T, yaml string) {
		cfg, err := Parse("f", []byte(yaml))
		if err != nil {
			return
		}
		for _, defaultEndpoint := range []bool{true, false} {
			p := planFor(cfg, defaultEndpoint)
			for dir, h := range p.hosts {
				if dir == "" || dir != filepath.Base(dir) || strings.HasPrefix(dir, ".") {
					t.Fatalf("directory %q", dir)
				}
				read(t, map[string]registryHosts{dir: h}, cfg)
			}
		}
	})
}
