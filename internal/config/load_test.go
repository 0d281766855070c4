package config

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func host() (string, error) { return "Box-7.Example.com", nil }

// files writes path (below the returned directory) → content and returns an
// Input that reads config.yaml there.
func files(t *testing.T, content map[string]string) (Input, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Input{Command: ForServer, DefaultFile: filepath.Join(dir, "config.yaml")}, dir
}

func env(vars map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := vars[k]; return v, ok }
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	in, dir := files(t, map[string]string{
		"config.yaml":             "node-name: main\ncluster-domain: main\ndata-dir: /main\nflannel-iface: main\n",
		"config.yaml.d/10-a.yaml": "cluster-domain: ten\ndata-dir: /ten\nflannel-iface: ten\n",
		"config.yaml.d/20-b.yml":  "data-dir: /twenty\nflannel-iface: twenty\n",
		"config.yaml.d/30-c.txt":  "data-dir: /not-read\n",
		"config.yaml.d/.40.yaml":  "data-dir: /not-read-either\n",
		"config.yaml.d/50.yaml/x": "data-dir: /in-a-directory\n",
	})
	in.LookupEnv = env(map[string]string{"LIMPET_DATA_DIR": "/env", "LIMPET_FLANNEL_IFACE": "env", "LIMPET_TOKEN": "", "LIMPET_URL": "https://not-ours"})
	in.Flags = map[string][]string{"flannel-iface": {"first", "flag"}}
	l, err := Load(in)
	if err != nil {
		t.Fatal(err)
	}
	for option, want := range map[string]string{
		"node-name":      "main " + dir + "/config.yaml:1",
		"cluster-domain": "ten " + dir + "/config.yaml.d/10-a.yaml:1",
		"data-dir":       "/env environment LIMPET_DATA_DIR",
		"flannel-iface":  "flag flag --flannel-iface",
	} {
		o := lookup(l.options, option)
		if got := o.get(&l.Server)[0] + " " + l.Sources(option)[0].String(); got != want {
			t.Errorf("%s: %s, want %s", option, got, want)
		}
	}
	if l.Server.Token != "" || l.Sources("token") != nil {
		t.Errorf("an empty variable was taken: token %q", l.Server.Token)
	}
	if l.Server.ServerURL != "" {
		t.Error("a variable of the agent was taken by the server")
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	in, _ := files(t, map[string]string{
		"config.yaml": `
tls-san: [a, "b,c"]        # commas separate, wherever they are
node-label+: x=1           # nothing to add to yet; a scalar is a list of one
kubelet-arg: "eviction-hard=a,b"
disable: &dns coredns
`,
		"config.yaml.d/1.yaml": "tls-san+: d\nnode-label+:\n  - y=2\nkubelet-arg+: [max-pods=200]\n",
		"config.yaml.d/2.yaml": "tls-san+: [e]\nkube-proxy-arg: [v=1]\n",
		"config.yaml.d/3.yaml": "kube-proxy-arg: [v=2]\n",
	})
	in.LookupEnv = env(map[string]string{"LIMPET_KUBE_SCHEDULER_ARG": "a=1,2\nb=3", "LIMPET_NODE_TAINT": "a:NoSchedule, b:NoExecute"})
	in.Flags = map[string][]string{"kube-apiserver-arg": {"feature-gates=A=true,B=true", "v=2"}, "node-ip": {"10.0.0.1,fd00::1"}, "disable": {""}}
	l, err := Load(in)
	if err != nil {
		t.Fatal(err)
	}
	for option, want := range map[string][]string{
		"tls-san":            {"a", "b", "c", "d", "e"},
		"node-label":         {"x=1", "y=2"},
		"kubelet-arg":        {"eviction-hard=a,b", "max-pods=200"},
		"kube-proxy-arg":     {"v=2"},
		"kube-scheduler-arg": {"a=1,2", "b=3"},
		"node-taint":         {"a:NoSchedule", "b:NoExecute"},
		"kube-apiserver-arg": {"feature-gates=A=true,B=true", "v=2"},
		"node-ip":            {"10.0.0.1", "fd00::1"},
		"disable":            nil, // an empty flag empties the file's list
	} {
		if got := lookup(l.options, option).get(&l.Server); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", option, got, want)
		}
	}
}

func TestWrongFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"typo":           {"debug: true\ncluster-cdir: 10.42.0.0/16\n", `F:2: unknown key "cluster-cdir"; did you mean cluster-cidr?`},
		"unknown":        {"traefik: true\n", `F:1: unknown key "traefik"`},
		"alias":          {"d: /x\n", `F:1: unknown key "d"`},
		"not in a file":  {"config: /x\n", `F:1: config: can be given as flag or in the environment only`},
		"of the agent":   {"server: https://x\n", `F:1: server: is an option of limpet agent, not of limpet server`},
		"twice":          {"debug: true\n\ndebug: false\n", `F:3: debug: is given twice, first in line 1`},
		"twice with +":   {"tls-san: [a]\ntls-san+: [b]\n", `F:2: tls-san: is given twice, first in line 1`},
		"+ to a scalar":  {"data-dir+: /x\n", `F:1: data-dir: takes one value: only a list can be added to with +`},
		"number":         {"https-listen-port: abc\n", `F:1: https-listen-port: "abc" is not a number`},
		"boolean":        {"debug: 'maybe'\n", `F:1: debug: "maybe" is neither true nor false`},
		"list for one":   {"data-dir:\n  - /x\n", `F:2: data-dir: wants one string, has a list`},
		"map for a list": {"node-label:\n  site: harbour\n", `F:2: node-label: wants a list of KEY=VALUE, has a mapping (key: value)`},
		"map in a list":  {"node-label:\n  - a=b\n  - site: harbour\n", `F:3: node-label: wants a list of KEY=VALUE, has a mapping (key: value)`},
		"map for text":   {"data-dir: {a: b}\n", `F:1: data-dir: wants a string, has a mapping (key: value)`},
		"bool for text":  {"node-name: true\n", `F:1: node-name: wants text, has true; if that is the text, put it in quotes`},
		"no value":       {"data-dir:\n", `F:1: data-dir: has no value`},
		"range":          {"cluster-cidr:\n  - 10.42.0.0/16\n  - fd00:42::/560\n", `F:3: cluster-cidr: "fd00:42::/560" is not an address range such as 10.42.0.0/16`},
		"not a mapping":  {"- debug\n", `F:1: wants lines of the form option: value, has a list`},
		"a secret":       {"K10abc::server:secret\n", `F:1: wants lines of the form option: value, has a single value`},
		"not YAML":       {"debug: true\n  data-dir: x: y\n", `F:2: is not valid YAML: mapping values are not allowed in this context`},
		"odd key":        {"[a]: b\n", `F:1: a key must be the name of an option, not a list`},
		"two documents":  {"debug: true\n---\ndebug: false\n", `F: holds more than one YAML document`},
		"several":        {"debgu: true\nhttps-listen-port: x\n", "F:1: unknown key \"debgu\"; did you mean debug?\nF:2: https-listen-port: \"x\" is not a number"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in, dir := files(t, map[string]string{"config.yaml": c.text})
			_, err := Load(in)
			want := strings.ReplaceAll(c.want, "F:", dir+"/config.yaml:")
			if err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %v", err, want)
			}
		})
	}
}

func TestSoundFiles(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text, option string
		want         []string
	}{
		"empty":               {"", "debug", []string{"false"}},
		"comments":            {"# nothing\n", "debug", []string{"false"}},
		"null document":       {"---\n", "debug", []string{"false"}},
		"octal as written":    {"write-kubeconfig-mode: 0644\n", "write-kubeconfig-mode", []string{"0644"}},
		"octal without zero":  {"write-kubeconfig-mode: 644\n", "write-kubeconfig-mode", []string{"0644"}},
		"octal in quotes":     {"write-kubeconfig-mode: '0644'\n", "write-kubeconfig-mode", []string{"0644"}},
		"number as text":      {"token: 0123456\n", "token", []string{"0123456"}},
		"exponent as text":    {"token: 12e7\n", "token", []string{"12e7"}},
		"number in quotes":    {"https-listen-port: '7443'\n", "https-listen-port", []string{"7443"}},
		"alias of an anchor":  {"node-name: &n box\ncluster-domain: *n\n", "cluster-domain", []string{"box"}},
		"windows line breaks": {"debug: true\r\n", "debug", []string{"true"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in, _ := files(t, map[string]string{"config.yaml": c.text})
			l, err := Load(in)
			if err != nil {
				t.Fatal(err)
			}
			if got := lookup(l.options, c.option).get(&l.Server); !slices.Equal(got, c.want) {
				t.Errorf("%s: %q, want %q", c.option, got, c.want)
			}
		})
	}
}

func TestWhichFile(t *testing.T) {
	t.Parallel()
	in, dir := files(t, map[string]string{
		"a.yaml": "node-name: a\n", "b.yaml": "node-name: b\n", "c.yaml.d/1.yaml": "node-name: c\n",
		"big.yaml": strings.Repeat("#", maxFileSize+1),
	})
	for _, c := range []struct{ name, flag, env, def, node, err string }{
		{"none", "", "", "missing.yaml", "", ""},
		{"default", "", "", "a.yaml", "a", ""},
		{"default missing, directory there", "", "", "c.yaml", "c", ""},
		{"environment", "", "b.yaml", "a.yaml", "b", ""},
		{"flag", "b.yaml", "missing.yaml", "a.yaml", "b", ""},
		{"flag missing", "missing.yaml", "", "a.yaml", "", "flag --config: file DIR/missing.yaml does not exist"},
		{"environment missing", "", "missing.yaml", "a.yaml", "", "environment LIMPET_CONFIG_FILE: file DIR/missing.yaml does not exist"},
		{"flag missing, directory there", "c.yaml", "", "", "", "flag --config: file DIR/c.yaml does not exist"},
		{"a directory", "c.yaml.d", "", "", "", "read config file: read DIR/c.yaml.d: is a directory"},
		{"too large", "big.yaml", "", "", "", "read config file DIR/big.yaml: larger than 1024 KiB: is it a config file?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			in := in
			in.DefaultFile = filepath.Join(dir, c.def)
			if c.flag != "" {
				in.Flags = map[string][]string{"config": {filepath.Join(dir, c.flag)}}
			}
			if c.env != "" {
				in.LookupEnv = env(map[string]string{"LIMPET_CONFIG_FILE": filepath.Join(dir, c.env)})
			}
			l, err := Load(in)
			if got := message(err); got != strings.ReplaceAll(c.err, "DIR", dir) {
				t.Fatalf("error %q, want %q", got, c.err)
			}
			if l.Server.NodeName != c.node {
				t.Errorf("node-name %q, want %q", l.Server.NodeName, c.node)
			}
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestWrongFlagsAndEnvironment(t *testing.T) {
	t.Parallel()
	in := Input{
		Command:   ForAgent,
		LookupEnv: env(map[string]string{"LIMPET_V": "loud", "LIMPET_CLUSTER_CIDR": "ignored by an agent"}),
		Flags:     map[string][]string{"node-ip": {"10.0.0.1", "x"}, "cluster-cidr": {"10.42.0.0/16"}},
	}
	l, err := Load(in)
	want := []string{
		`environment LIMPET_V: "loud" is not a number`,
		`flag --cluster-cidr: is a flag of limpet server, not of limpet agent`,
		`flag --node-ip: "x" is not an IP address`,
	}
	var got []string
	for _, p := range Problems(err) {
		got = append(got, p.Error())
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	// What is missing is complained of too.
	if err := errors.Join(l.Complete(host), l.Validate()); !strings.Contains(message(err), "server: is needed") {
		t.Errorf("Validate: %v", err)
	}
}

// A value that could not be decoded does not count as missing.
func TestOneProblemPerMistake(t *testing.T) {
	t.Parallel()
	in, _ := files(t, map[string]string{"config.yaml": "server: [https://10.0.0.5:6443]\ntoken: x\n"})
	in.Command = ForAgent
	l, err := Load(in)
	if !strings.Contains(message(err), "server: wants one string, has a list") {
		t.Errorf("Load: %v", err)
	}
	if err := errors.Join(l.Complete(host), l.Validate()); err != nil {
		t.Errorf("Validate: %v", err)
	}
}

// A problem found by Validate names the place that gave the value.
func TestValidateNamesTheSource(t *testing.T) {
	t.Parallel()
	in, dir := files(t, map[string]string{"config.yaml": "debug: true\nservice-cidr: 10.42.0.0/16\n"})
	in.Flags = map[string][]string{"flannel-backend": {"vxlna"}}
	l, err := Load(in)
	if err := errors.Join(err, l.Complete(host)); err != nil {
		t.Fatal(err)
	}
	want := dir + "/config.yaml:2: service-cidr: 10.42.0.0/16 overlaps cluster-cidr 10.42.0.0/16\n" +
		`flag --flannel-backend: "vxlna" is not one of vxlan, host-gw, none; did you mean vxlan?`
	if got := message(l.Validate()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestPrint(t *testing.T) {
	t.Parallel()
	in, dir := files(t, map[string]string{
		"config.yaml":          "tls-san: [a]\nhttps-listen-port: 7443\ncluster-domain: '123'\n",
		"config.yaml.d/1.yaml": "tls-san+:\n- b\n",
	})
	in.LookupEnv = env(map[string]string{"LIMPET_TOKEN": "very-secret"})
	in.Flags = map[string][]string{"debug": {"true"}, "kubelet-arg": {"a: b # c", "two\nlines"}}
	var out bytes.Buffer
	l, err := Load(in)
	if err := errors.Join(err, l.Complete(host), l.Print(&out)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"tls-san:\n  - a  # " + dir + "/config.yaml:1\n  - b  # " + dir + "/config.yaml.d/1.yaml:2\n",
		"https-listen-port: 7443  # " + dir + "/config.yaml:2\n",
		"cluster-domain: \"123\"  # " + dir + "/config.yaml:3\n",
		"debug: true  # flag --debug\n",
		"cluster-dns:\n  - 10.43.0.10  # default\n",
		"node-name: box-7.example.com  # default\n",
		"# token: (secret)  # environment LIMPET_TOKEN\n",
		"# advertise-address:  # not set\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "very-secret") {
		t.Error("the token is printed")
	}
}

// What Print writes is a config file that means the same.
func TestPrintRoundTrip(t *testing.T) {
	t.Parallel()
	for _, command := range []Command{ForServer, ForAgent} {
		in := Input{Command: command, Flags: map[string][]string{}}
		for _, o := range OptionsFor(command) {
			if o.Name != "config" && !o.Secret {
				in.Flags[o.Name] = samples[o.Name]
			}
		}
		first, err := Load(in)
		if err != nil {
			t.Fatal(err)
		}
		var out, again bytes.Buffer
		if err := first.Print(&out); err != nil {
			t.Fatal(err)
		}
		in, _ = files(t, map[string]string{"config.yaml": out.String()})
		in.Command = command
		second, err := Load(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range OptionsFor(command) {
			if got, want := o.get(&second.Server), o.get(&first.Server); !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", o.Name, got, want)
			}
		}
		if err := second.Print(&again); err != nil || again.Len() == 0 {
			t.Error(err)
		}
	}
}

// No file makes the parser panic, and what it takes decodes and has a line in the file.
func FuzzParseFile(f *testing.F) {
	for _, seed := range []string{
		"debug: true\nnode-label: [a=b]\n", "tls-san+: a,b\n", "a: &x [*x]\n", "- 1\n", "node-ip:\n- 10.0.0.1\n", "<<: {debug: true}\n",
		"? [a]\n: b\n", "debug: !!bool maybe\n", "v: 0x10\n", "---\n---\n", "kubelet-arg: |\n  a\n  b\n", "token: !!binary aGk=\n", "*x : y\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		settings, problems := parseFile("f", data, Options(), ForServer)
		lines := bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r")) + bytes.Count(data, []byte("\u0085")) +
			bytes.Count(data, []byte("\u2028")) + bytes.Count(data, []byte("\u2029")) + 1
		for _, s := range settings {
			var server Server
			if err := s.option.set(&server, valuesOf(s.items)); err != nil && (s.option.Kind == List || len(s.items) > 0) {
				t.Errorf("%s: %v", s.option.Name, err)
			}
			for _, it := range s.items {
				if it.source.Line < 1 || it.source.Line > lines {
					t.Errorf("%s: line %d of %d", s.option.Name, it.source.Line, lines)
				}
			}
		}
		for _, p := range problems {
			if strings.TrimSpace(p.Error()) == "" {
				t.Error("an empty problem")
			}
		}
	})
}
