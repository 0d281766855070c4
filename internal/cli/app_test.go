package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/version"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestServerGetsACompletedConfiguration(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	write(t, r.app.DefaultConfigFile, "data-dir: /file\ncluster-domain: file\nnode-label: [a=b]\n")
	r.env["LIMPET_DATA_DIR"], r.env["LIMPET_FLANNEL_IFACE"] = "/env", "env0"
	code := r.run("server", "--flannel-iface=flag0", "-i", "10.0.0.1", "--node-ip", "fd00::1", "--disable-agent", "--debug=false",
		"--kubelet-arg", "eviction-hard=a<1,b<2", "--kubelet-arg=v=2", "-o", "/x/kc", "-v", "3")
	if code != ExitOK || r.server == nil {
		t.Fatalf("exit %d: %s", code, &r.stderr)
	}
	s := r.server
	for _, c := range []struct{ what, got, want string }{
		{"data-dir", s.DataDir, "/env"},
		{"cluster-domain", s.ClusterDomain, "file"},
		{"flannel-iface", s.FlannelIface, "flag0"},
		{"node-label", strings.Join(s.NodeLabels, " "), "a=b"},
		{"kubelet-arg", strings.Join(s.KubeletArgs, " "), "eviction-hard=a<1,b<2 v=2"},
		{"write-kubeconfig", s.WriteKubeconfig, "/x/kc"},
		{"node-name", s.NodeName, "box"},
		{"snapshotter", s.Snapshotter, "overlayfs"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.what, c.got, c.want)
		}
	}
	if len(s.NodeIP) != 2 || !s.DisableAgent || s.Debug || s.Verbosity != 3 || len(s.ClusterCIDR) != 2 {
		t.Errorf("%+v", s)
	}
	if r.stdout.Len()+r.stderr.Len() > 0 {
		t.Errorf("printed %q %q", &r.stdout, &r.stderr)
	}
}

func TestAgentGetsItsConfiguration(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	r.env["LIMPET_URL"], r.env["LIMPET_TOKEN"] = "https://10.0.0.5:6443", "secret"
	if code := r.run("agent", "--node-name", "n1"); code != ExitOK || r.agent == nil {
		t.Fatalf("exit %d: %s", code, &r.stderr)
	}
	if a := r.agent; a.ServerURL != "https://10.0.0.5:6443" || a.Token != "secret" || a.NodeName != "n1" || a.DataDir != "/var/lib/limpet" {
		t.Errorf("%+v", a)
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"server --cluster-cdir 10.42.0.0/16", "limpet server: unknown flag --cluster-cdir; did you mean --cluster-cidr?\nSee limpet server --help\n"},
		{"server --cluster-cdir=10.42.0.0/16", "limpet server: unknown flag --cluster-cdir; did you mean --cluster-cidr?\nSee limpet server --help\n"},
		{"server --cluster-init", "limpet server: unknown flag --cluster-init\nSee limpet server --help\n"},
		{"server -x", "limpet server: unknown flag -x\nSee limpet server --help\n"},
		{"server --server https://x", "limpet server: --server is a flag of limpet agent\nSee limpet server --help\n"},
		{"agent --cluster-cidr x", "limpet agent: --cluster-cidr is a flag of limpet server\nSee limpet agent --help\n"},
		{"server --data-dir", "limpet server: flag --data-dir needs a value\nSee limpet server --help\n"},
		{"server extra", "limpet server: takes no arguments, but has \"extra\"\nSee limpet server --help\n"},
		{"server --debug false", "limpet server: takes no arguments, but has \"false\"; a value of a switch is joined with =, as in --debug=false\nSee limpet server --help\n"},
		{"server --debug=perhaps", "limpet server: flag --debug: \"perhaps\" is neither true nor false\nSee limpet server --help\n"},
		{"server --cluster-cidr 10.42.0.0", "limpet server: flag --cluster-cidr: \"10.42.0.0\" is not an address range such as 10.42.0.0/16\nSee limpet server --help\n"},
		{"server --service-cidr 10.42.0.0/16 --flannel-backend vxlna",
			"limpet server: 2 problems:\n  flag --service-cidr: 10.42.0.0/16 overlaps cluster-cidr 10.42.0.0/16\n" +
				"  flag --flannel-backend: \"vxlna\" is not one of vxlan, host-gw, none; did you mean vxlan?\nSee limpet server --help\n"},
		{"agent", "limpet agent: server: is needed: the server to join, as https://HOST:6443\nSee limpet agent --help\n"},
		{"srever", "limpet: unknown command \"srever\"; did you mean server?\nSee limpet --help\n"},
		{"--debug server", "limpet: unknown flag --debug\nSee limpet --help\n"},
		{"config prnit", "limpet config: unknown command \"prnit\"; did you mean print?\nSee limpet config --help\n"},
		{"config check --for agnet", "limpet config check: flag --for: \"agnet\" is not one of server, agent; did you mean agent?\nSee limpet config check --help\n"},
		{"config print --for agent --cluster-cidr 10.0.0.0/16 --server https://x --token x",
			"limpet config print: flag --cluster-cidr: is a flag of limpet server, not of limpet agent\nSee limpet config print --help\n"},
		{"status -o yaml", "limpet status: flag --output: \"yaml\" is not one of text, json\nSee limpet status --help\n"},
		{"version --outptu json", "limpet version: unknown flag --outptu; did you mean --output?\nSee limpet version --help\n"},
		{"completion", "limpet completion: name a shell: bash, fish, zsh\nSee limpet completion --help\n"},
		{"completion bsah", "limpet completion: there is no script for \"bsah\", only for bash, fish, zsh; did you mean bash?\nSee limpet completion --help\n"},
		{"help nothing", "limpet help: there is no command \"nothing\"\nSee limpet help --help\n"},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			r := newRun(t)
			if code := r.run(strings.Fields(c.args)...); code != ExitUsage {
				t.Errorf("exit %d", code)
			}
			if got := r.stderr.String(); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
			if r.stdout.Len() > 0 || r.started() != "" {
				t.Errorf("printed %q, started %q", &r.stdout, r.started())
			}
		})
	}
}

func TestWrongFile(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	file := filepath.Join(t.TempDir(), "c.yaml")
	write(t, file, "debug: true\ncluster-cdir: 10.42.0.0/16\n")
	for _, command := range []string{"server", "config check", "config print", "check-config"} {
		r.stderr.Reset()
		if code := r.run(append(strings.Fields(command), "--config", file)...); code != ExitUsage || r.started() != "" {
			t.Errorf("%s: exit %d, started %q", command, code, r.started())
		}
		want := "limpet " + command + ": " + file + ":2: unknown key \"cluster-cdir\"; did you mean cluster-cidr?\nSee limpet " + command + " --help\n"
		if got := r.stderr.String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

// coded is an error that chooses its exit code.
type coded struct{}

func (coded) Error() string { return "" }
func (coded) ExitCode() int { return 7 }

func TestFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args   string
		err    error
		code   int
		stderr string
	}{
		{"server", errAction, ExitFailure, "limpet server: it broke\n"},
		{"check-config", errAction, ExitFailure, "limpet check-config: it broke\n"},
		{"status", errAction, ExitFailure, "limpet status: it broke\n"},
		{"kubectl get pods", errAction, ExitFailure, "limpet kubectl: it broke\n"},
		{"ctr images", errAction, ExitFailure, "limpet ctr: it broke\n"},
		{"kubectl diff", coded{}, 7, ""}, // it said what it had to say
	} {
		r := newRun(t)
		r.err = c.err
		if code := r.run(strings.Fields(c.args)...); code != c.code || r.stderr.String() != c.stderr {
			t.Errorf("%s: exit %d, %q; want %d, %q", c.args, code, &r.stderr, c.code, c.stderr)
		}
	}
}

func TestPassThrough(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		argv []string
		want string
	}{
		{[]string{"limpet", "kubectl", "get", "pods", "-o", "wide", "--help"}, "kubectl get pods -o wide --help"},
		{[]string{"limpet", "kubectl", "--help"}, "kubectl --help"},
		{[]string{"limpet", "kubectl", "help"}, "kubectl help"},
		{[]string{"limpet", "kubectl"}, "kubectl"},
		{[]string{"limpet", "kubectl", "exec", "p", "--", "sh", "-c", "a --b"}, "kubectl exec p -- sh -c a --b"},
		{[]string{"limpet", "kubectl", "version", completionFlag}, "kubectl version " + completionFlag},
		{[]string{"limpet", "ctr", "-n", "k8s.io", "images", "ls"}, "ctr -n k8s.io images ls"},
		{[]string{"/usr/local/bin/kubectl", "get", "-A", "pods"}, "kubectl get -A pods"},
		{[]string{"./ctr", "--version"}, "ctr --version"},
		{[]string{"kubectl", "server"}, "kubectl server"},
	} {
		r := newRun(t)
		if code := r.app.Run(t.Context(), c.argv); code != ExitOK || r.started() != c.want {
			t.Errorf("%q: exit %d, ran %q %s", c.argv, code, r.started(), &r.stderr)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir+"/admin.yaml", "")
	for _, c := range []struct {
		name, file string
		env        map[string]string
		want       string
	}{
		{"none to be read", "write-kubeconfig: " + dir + "/none\n", nil, ""},
		{"from the file", "write-kubeconfig: " + dir + "/admin.yaml\n", nil, dir + "/admin.yaml"},
		{"beside a mistake", "write-kubeconfig: " + dir + "/admin.yaml\ntypo: x\n", nil, dir + "/admin.yaml"},
		{"from the environment", "", map[string]string{"LIMPET_KUBECONFIG_OUTPUT": dir + "/admin.yaml"}, dir + "/admin.yaml"},
		{"the user's own", "write-kubeconfig: " + dir + "/admin.yaml\n", map[string]string{"KUBECONFIG": "/own"}, "/own"},
		{"empty", "write-kubeconfig: " + dir + "/admin.yaml\n", map[string]string{"KUBECONFIG": ""}, dir + "/admin.yaml"},
	} {
		r := newRun(t)
		write(t, r.app.DefaultConfigFile, c.file)
		for k, v := range c.env {
			r.env[k] = v
		}
		if code := r.run("kubectl", "get"); code != ExitOK || r.env["KUBECONFIG"] != c.want {
			t.Errorf("%s: exit %d, KUBECONFIG=%q, want %q", c.name, code, r.env["KUBECONFIG"], c.want)
		}
	}
}

func TestCheckConfigNeedsNoValidConfiguration(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	write(t, r.app.DefaultConfigFile, "server: https://10.0.0.5:6443\n") // an agent without a token yet
	if code := r.run("check-config", "--for", "agent", "-d", "/x"); code != ExitOK || r.checked == nil {
		t.Fatalf("exit %d: %s", code, &r.stderr)
	}
	if r.checked.DataDir != "/x" || r.checked.NodeName != "box" {
		t.Errorf("%+v", r.checked)
	}
}

func TestStatusFormat(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]Format{"status": Text, "status -o json": JSON, "status --output=text": Text} {
		r := newRun(t)
		if code := r.run(strings.Fields(args)...); code != ExitOK || r.status != want {
			t.Errorf("%s: exit %d, format %q", args, code, r.status)
		}
	}
}

func TestConfigCommands(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	r.env["LIMPET_TOKEN"] = "abcdef.veryverysecret00"
	if code := r.run("config", "print", "--tls-san", "a,b"); code != ExitOK {
		t.Fatalf("exit %d: %s", code, &r.stderr)
	}
	for _, want := range []string{"tls-san:\n  - a  # flag --tls-san\n", "# token: (secret)  # environment LIMPET_TOKEN\n", "cluster-cidr:\n  - 10.42.0.0/16  # default\n"} {
		if !strings.Contains(r.stdout.String(), want) {
			t.Errorf("no %q in %s", want, &r.stdout)
		}
	}
	if strings.Contains(r.stdout.String(), "abcdef.veryverysecret00") {
		t.Error("the token is printed")
	}
	r.stdout.Reset()
	if code := r.run("config", "print", "--for", "agent", "--server", "https://x"); code != ExitOK || strings.Contains(r.stdout.String(), "cluster-cidr") {
		t.Errorf("exit %d: %s%s", code, &r.stdout, &r.stderr)
	}
	r.stdout.Reset()
	if code := r.run("config", "check"); code != ExitOK || r.stdout.String() != "The configuration of limpet server is valid.\n" {
		t.Errorf("exit %d: %s%s", code, &r.stdout, &r.stderr)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	if code := r.run("version"); code != ExitOK || !strings.HasPrefix(r.stdout.String(), "limpet "+version.Version) || !strings.Contains(r.stdout.String(), runtime.Version()) {
		t.Errorf("exit %d: %s", code, &r.stdout)
	}
	text := r.stdout.String()
	r.stdout.Reset()
	if r.run("--version"); r.stdout.String() != text {
		t.Errorf("--version prints %q", &r.stdout)
	}
	r.stdout.Reset()
	var info version.Info
	if code := r.run("version", "-o", "json"); code != ExitOK || json.Unmarshal([]byte(r.stdout.String()), &info) != nil || info.KubernetesVersion != version.KubernetesVersion {
		t.Errorf("exit %d: %s", code, &r.stdout)
	}
}

// Help of every command, however it is asked for, names all its flags, fits the
// width and goes to standard output.
func TestHelp(t *testing.T) {
	t.Parallel()
	var check func(path []string, commands []*cli.Command)
	check = func(path []string, commands []*cli.Command) {
		for _, c := range commands {
			path := append(slices.Clone(path), c.Name)
			check(path, c.Subcommands)
			// The --help of these is not ours, or cli's: that of the program as a whole.
			if c.SkipFlagParsing || c.Name == "help" {
				continue
			}
			var texts []string
			for _, args := range [][]string{append(slices.Clone(path), "--help"), append(slices.Clone(path), "-h"), append([]string{"help"}, path...)} {
				r := newRun(t)
				if code := r.run(args...); code != ExitOK || r.stderr.Len() > 0 || r.started() != "" {
					t.Errorf("%q: exit %d, %s", args, code, &r.stderr)
				}
				texts = append(texts, r.stdout.String())
			}
			if texts[0] != texts[1] || texts[0] != texts[2] {
				t.Errorf("%q: help differs:\n%s\n%s\n%s", path, texts[0], texts[1], texts[2])
			}
			if want := "limpet " + strings.Join(path, " ") + " - " + c.Usage + "\n"; !strings.HasPrefix(texts[0], want) {
				t.Errorf("%q: help does not begin with %q:\n%s", path, want, texts[0])
			}
			for _, f := range c.Flags {
				if name := flagInfoOf(f).names[0]; !strings.Contains(texts[0], dashes(name)) {
					t.Errorf("%q: no %s in help", path, name)
				}
			}
			for line := range strings.Lines(texts[0]) {
				if len(line) > helpWidth+1 {
					t.Errorf("%q: line too long: %s", path, line)
				}
				if strings.Contains(line, "{{") || strings.HasSuffix(line, " \n") {
					t.Errorf("%q: odd line %q", path, line)
				}
			}
		}
	}
	check(nil, newRun(t).app.commands())
	for _, args := range [][]string{nil, {"--help"}, {"help"}} {
		r := newRun(t)
		if code := r.run(args...); code != ExitOK || !strings.Contains(r.stdout.String(), "Usage:\n  limpet COMMAND") {
			t.Errorf("%q: exit %d: %s", args, code, &r.stdout)
		}
	}
}

// The examples that help gives are valid commands.
func TestExamplesWork(t *testing.T) {
	t.Parallel()
	found := 0
	for _, c := range []string{"", "server", "agent", "config print", "config check", "status", "version", "check-config"} {
		r := newRun(t)
		r.run(append(strings.Fields(c), "--help")...)
		for line := range strings.Lines(r.stdout.String()) {
			example, ok := strings.CutPrefix(line, "  limpet ")
			if !ok || strings.Contains(example, "[flags]") {
				continue
			}
			found++
			r := newRun(t)
			if strings.Contains(example, "./new.yaml") || strings.Contains(example, "--for agent") {
				continue // read files that are not here
			}
			if code := r.run(strings.Fields(example)...); code != ExitOK {
				t.Errorf("limpet %s exits with %d: %s", strings.TrimSpace(example), code, &r.stderr)
			}
		}
	}
	if found < 10 {
		t.Errorf("only %d examples found", found)
	}
}

func TestEveryOptionIsAFlag(t *testing.T) {
	t.Parallel()
	for _, command := range []config.Command{config.ForServer, config.ForAgent} {
		for _, o := range config.OptionsFor(command) {
			for _, name := range o.Flags() {
				r := newRun(t)
				// The value may be wrong; the flag must be known.
				r.run(strings.TrimPrefix(command.String(), "limpet "), name+"=x")
				if strings.Contains(r.stderr.String(), "unknown flag") {
					t.Errorf("%s %s: %s", command, name, &r.stderr)
				}
			}
		}
	}
}
