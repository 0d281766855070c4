package dns

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func testInputs(corefile string, custom map[string]string) inputs {
	return inputs{
		files: newVirtualFiles(map[string]string{"Corefile": corefile, "NodeHosts": "192.0.2.1 n1\n", "db.example": "zone"}, custom),
		own: ownAddresses{
			listen: addrs("192.0.2.1", "2001:db8::1"), port: 10053, clusterDNS: addrs("10.43.0.10"),
		},
		upstreams:  []string{"198.51.100.1", "2001:db8::53"},
		allow:      []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		local:      addrs("192.0.2.1", "2001:db8::1", "127.0.0.1"),
		kubeconfig: "/data/dns.kubeconfig",
		runDir:     "/run/limpet/dns",
	}
}

// want is compared line by line without indentation; DIR is the plan's directory.
func checkPlan(t *testing.T, p plan, want string) {
	t.Helper()
	trim := func(s string) []string {
		var out []string
		for l := range strings.Lines(s) {
			if l = strings.TrimSpace(l); l != "" {
				out = append(out, l)
			}
		}
		return out
	}
	got := trim(strings.ReplaceAll(p.text, p.dir, "DIR"))
	if w := trim(want); !slices.Equal(got, w) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(w, "\n"))
	}
}

func TestCompileDefault(t *testing.T) {
	t.Parallel()
	p, err := compile(testInputs(DefaultCorefile("cluster.local"), nil))
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, p, `
.:10053 {
    bind 192.0.2.1 2001:db8::1
    prometheus 192.0.2.1:9153
    errors
    loadbalance
    acl {
        allow net 127.0.0.0/8 ::1/128 192.0.2.1/32 2001:db8::1/128 10.42.0.0/16
        block
    }
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
    hosts DIR/NodeHosts {
        reload 0
        ttl 60
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        kubeconfig /data/dns.kubeconfig
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    limpet_loopguard 192.0.2.1 2001:db8::1 127.0.0.1
    forward . 198.51.100.1 2001:db8::53 {
        max_concurrent 1000
    }
}`)
	if p.files["NodeHosts"] != "192.0.2.1 n1\n" || !p.kubernetes || p.metricsPort != 9153 || len(p.notes) != 0 {
		t.Errorf("plan %+v", p)
	}
}

// TestCompileK3s takes the Corefile that k3s ships, so that people can bring theirs.
func TestCompileK3s(t *testing.T) {
	t.Parallel()
	p, err := compile(testInputs(`.:53 {
        errors
        health
        ready
        kubernetes cluster.local in-addr.arpa ip6.arpa {
          pods insecure
          fallthrough in-addr.arpa ip6.arpa
        }
        hosts /etc/coredns/NodeHosts {
          ttl 60
          reload 15s
          fallthrough
        }
        prometheus :9153
        cache 30
        loop
        reload
        loadbalance
        import /etc/coredns/custom/*.override
        forward . /etc/resolv.conf
    }
    import /etc/coredns/custom/*.server
`, map[string]string{
		"corp.server":  "corp.example:53 {\n  forward . 10.1.1.1\n}\n",
		"log.override": "log\n",
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"reload 0\n", "corp.example:10053 {", "forward . 10.1.1.1\n", "    log\n"} {
		if !strings.Contains(p.text, want) {
			t.Errorf("no %q in\n%s", want, p.text)
		}
	}
	for _, gone := range []string{"health", "ready", "loop\n", "reload\n", "reload 15s", ":53 "} {
		if strings.Contains(p.text, gone) {
			t.Errorf("%q is left in\n%s", gone, p.text)
		}
	}
	if len(p.notes) != 4 {
		t.Errorf("notes: %q", p.notes)
	}
}

func TestCompileRewrites(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		corefile string
		mod      func(*inputs)
		has, not []string
		err      string
	}{
		"explicit endpoint is kept": {
			corefile: ". {\n kubernetes c.local {\n endpoint https://h:6443\n}\n}", not: []string{"kubeconfig"},
		},
		"kubernetes without a block": {
			corefile: ". {\n kubernetes c.local\n}", has: []string{"kubernetes c.local {\n        kubeconfig /data/dns.kubeconfig\n    }"},
		},
		"quick start": {
			corefile: ". {\n kubernetes c.local\n}", mod: func(in *inputs) { in.quickStart = true }, has: []string{"startup_timeout 1ms"},
		},
		"quick start respects the user": {
			corefile: ". {\n kubernetes c.local {\n startup_timeout 3s\n}\n}", mod: func(in *inputs) { in.quickStart = true },
			has: []string{"startup_timeout 3s"}, not: []string{"1ms"},
		},
		"no upstream left": {
			corefile: ". {\n forward . /etc/resolv.conf {\n prefer_udp\n}\n}", mod: func(in *inputs) { in.upstreams = nil },
			has: []string{"limpet_noupstream .\n"}, not: []string{"    forward"},
		},
		"forward to itself by Service": {
			corefile: ". {\n forward . 10.43.0.10 1.1.1.1\n}", has: []string{"forward . 1.1.1.1\n"},
		},
		"forward to itself by node": {
			corefile: ". {\n forward . 192.0.2.1:10053 dns://[2001:db8::1]:10053\n}", has: []string{"limpet_noupstream ."}, not: []string{"    forward"},
		},
		"another resolver on the node is fine": {
			corefile: ". {\n forward . 192.0.2.1 127.0.0.1\n}", has: []string{"forward . 192.0.2.1 127.0.0.1\n"},
		},
		"duplicates": {
			corefile: ". {\n forward . 1.1.1.1 /etc/resolv.conf 198.51.100.1\n}", has: []string{"forward . 1.1.1.1 198.51.100.1 2001:db8::53\n"},
		},
		"tls upstream is left alone": {
			corefile: ". {\n forward . tls://9.9.9.9 {\n tls_servername dns.quad9.net\n}\n}", has: []string{"forward . tls://9.9.9.9 {\n        tls_servername dns.quad9.net\n"},
		},
		"other ports stay": {
			corefile: ". {\n whoami\n}\nx.:5353 {\n whoami\n}", has: []string{".:10053 {", "x.:5353 {"},
		},
		"reverse zone": {
			corefile: "10.0.0.0/24 {\n whoami\n}", has: []string{"10.0.0.0/24:10053 {"},
		},
		"own bind is the user's": {
			corefile: ". {\n whoami\n}\nlan.:53 {\n bind 192.0.2.7\n whoami\n}", has: []string{"lan.:53 {\n    bind 192.0.2.7\n"},
		},
		"nothing serves the cluster": {
			corefile: ".:53 {\n bind 127.0.0.1\n whoami\n}", err: "no server block listens",
		},
		"user's acl comes first": {
			corefile: ". {\n acl {\n allow net 192.168.0.0/16\n }\n whoami\n}",
			has:      []string{"acl {\n        allow net 192.168.0.0/16\n    }\n    acl {\n        allow net 127.0.0.0/8"},
		},
		"hosts without a file does not read the machine's": {
			corefile: ". {\n hosts {\n 192.0.2.9 x\n fallthrough\n}\n}", has: []string{"/.none {\n        reload 0\n        192.0.2.9 x\n"}, not: []string{"/etc/hosts"},
		},
		"zone file from the ConfigMap": {
			corefile: ". {\n file db.example example.org\n}", has: []string{"/db.example example.org {\n        reload 0\n"},
		},
		"missing zone file":             {corefile: ". {\n file db.nothing\n}", err: "no file /etc/coredns/db.nothing"},
		"hosts file of the machine":     {corefile: ". {\n hosts /etc/shadow\n}", err: "file /etc/shadow cannot be read"},
		"zone file of the machine":      {corefile: ". {\n file ../../etc/shadow\n}", err: "cannot be read"},
		"resolv.conf of another name":   {corefile: ". {\n forward . /root/secret\n}", err: "file /root/secret cannot be read"},
		"prometheus on loopback":        {corefile: ". {\n prometheus localhost:9153\n}", has: []string{"prometheus localhost:9153"}},
		"unknown directive, right line": {corefile: "# c\n. {\n\n  errors\n  nonsense 1\n}", err: "/etc/coredns/Corefile:5: Unknown directive 'nonsense'"},
		"missing brace":                 {corefile: ". {\n errors\n cache {\n", err: "/etc/coredns/Corefile"},
		"environment":                   {corefile: ". {\n whoami {$HOME}\n}", err: "environment variables"},
		"empty":                         {corefile: "", err: "no server block"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := testInputs(tt.corefile, nil)
			if tt.mod != nil {
				tt.mod(&in)
			}
			p, err := compile(in)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range tt.has {
				if !strings.Contains(p.text, s) {
					t.Errorf("no %q in\n%s", s, p.text)
				}
			}
			for _, s := range tt.not {
				if strings.Contains(p.text, s) {
					t.Errorf("%q in\n%s", s, p.text)
				}
			}
		})
	}
}

func TestCompileNamesTheCustomFile(t *testing.T) {
	t.Parallel()
	_, err := compile(testInputs(DefaultCorefile("cluster.local"), map[string]string{"bad.override": "log\nnonsense\n"}))
	if err == nil || !strings.Contains(err.Error(), "/etc/coredns/custom/bad.override:2: Unknown directive 'nonsense'") {
		t.Fatalf("got %v", err)
	}
}

func TestDirectoryFollowsContents(t *testing.T) {
	t.Parallel()
	a, err := compile(testInputs(DefaultCorefile("cluster.local"), nil))
	if err != nil {
		t.Fatal(err)
	}
	in := testInputs(DefaultCorefile("cluster.local"), nil)
	in.files[configDir+"/NodeHosts"] += "192.0.2.2 n2\n"
	b, err := compile(in)
	if err != nil {
		t.Fatal(err)
	}
	if a.text == b.text {
		t.Error("changed NodeHosts did not change the plan")
	}
}

// FuzzCompile checks that a compiled plan compiles to itself, reads nothing of
// the machine and always has its access list.
func FuzzCompile(f *testing.F) {
	f.Add(DefaultCorefile("cluster.local"), "log\n")
	f.Add(". {\n hosts {\n 1.2.3.4 a\n}\n forward . /etc/resolv.conf 10.43.0.10\n}", "acl {\n allow\n}")
	f.Fuzz(func(t *testing.T, corefile, override string) {
		in := testInputs(corefile, map[string]string{"x.override": override})
		p, err := compile(in)
		if err != nil {
			return
		}
		blocks, err := parseBlocks("plan", mustLex(t, p.text), directives())
		if err != nil {
			t.Fatalf("the plan does not parse: %v\n%s", err, p.text)
		}
		for _, b := range blocks {
			acl := b.statements["acl"]
			if len(acl) == 0 || !slices.Equal(acl[len(acl)-1].body[1], []string{"block"}) {
				t.Fatalf("block without access list:\n%s", p.text)
			}
			for _, s := range slices.Concat(b.statements["hosts"], b.statements["file"]) {
				if len(s.args) > 0 && !strings.HasPrefix(filepath.Clean(s.args[0]), p.dir+"/") {
					t.Fatalf("reads %s", s.args[0])
				}
			}
		}
		if again, err := format(blocks, directives()); err != nil || again != p.text {
			t.Fatalf("formatting is not stable (%v):\n%s\n%s", err, p.text, again)
		}
	})
}

func mustLex(t *testing.T, text string) []line {
	t.Helper()
	lines, err := lex("plan", text)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestResolvConf(t *testing.T) {
	t.Parallel()
	own := ownAddresses{listen: addrs("192.0.2.1"), port: 53, clusterDNS: addrs("10.43.0.10", "fd43::a")}
	tests := map[string]struct {
		text string
		want []string
	}{
		"plain":                  {"search x\nnameserver 1.1.1.1\nnameserver 8.8.8.8 # c\n", []string{"1.1.1.1", "8.8.8.8"}},
		"cluster DNS":            {"nameserver 10.43.0.10\nnameserver fd43::a\n", nil},
		"this node at our port":  {"nameserver 192.0.2.1\n", nil},
		"mapped":                 {"nameserver ::ffff:10.43.0.10\nnameserver ::ffff:1.1.1.1", []string{"1.1.1.1"}},
		"unspecified means here": {"nameserver 0.0.0.0\nnameserver ::\n", nil},
		"link local keeps zone":  {"nameserver fe80::1%eth0\n", []string{"fe80::1%eth0"}},
		"local resolver":         {"nameserver 127.0.0.1\n", []string{"127.0.0.1"}},
		"garbage":                {"nameserver\nnameserver x\n\x00\nnameserver 1.1.1.1 \n;nameserver 2.2.2.2\n", []string{"1.1.1.1"}},
		"twice":                  {"nameserver 1.1.1.1\nnameserver 1.1.1.1\n", []string{"1.1.1.1"}},
		"more than forward takes": {strings.Repeat("nameserver 127.1.0.1\n", 3) + func() string {
			var b strings.Builder
			for a := netip.MustParseAddr("9.9.9.1"); a != netip.MustParseAddr("9.9.9.21"); a = a.Next() {
				b.WriteString("nameserver " + a.String() + "\n")
			}
			return b.String()
		}(), []string{"127.1.0.1", "9.9.9.1", "9.9.9.2", "9.9.9.3", "9.9.9.4", "9.9.9.5", "9.9.9.6", "9.9.9.7", "9.9.9.8", "9.9.9.9", "9.9.9.10", "9.9.9.11", "9.9.9.12", "9.9.9.13", "9.9.9.14"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := own.usable(parseResolvConf(tt.text)); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestResolvedStub(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	stub := write("stub", "nameserver 127.0.0.53\noptions edns0\n")
	behind := write("behind", "nameserver 192.168.1.1\n")
	mixed := write("mixed", "nameserver 127.0.0.53\nnameserver 9.9.9.9\n")
	empty := write("empty", "# none\n")
	for _, tt := range []struct {
		files resolvFiles
		want  []netip.Addr
	}{
		{resolvFiles{stub, behind}, addrs("192.168.1.1")},
		{resolvFiles{stub, empty}, addrs("127.0.0.53")},
		{resolvFiles{stub, dir + "/missing"}, addrs("127.0.0.53")},
		{resolvFiles{mixed, behind}, addrs("127.0.0.53", "9.9.9.9")},
		{resolvFiles{dir + "/missing", behind}, nil},
	} {
		got, err := tt.files.servers()
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%+v: got %v, %v; want %v", tt.files, got, err, tt.want)
		}
	}
	if _, err := (resolvFiles{dir, behind}).servers(); err == nil {
		t.Error("no error for a resolv.conf that is a directory")
	}
}
