package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestComplete(t *testing.T) {
	t.Parallel()
	app := newRun(t).app.urfave()
	for _, c := range []struct {
		words []string
		want  string
	}{
		{nil, "server agent token node kubectl ctr status snapshot datastore bundle check-config config doctor upgrade rollback release kill uninstall verify version completion help"},
		{[]string{""}, "server agent token node kubectl ctr status snapshot datastore bundle check-config config doctor upgrade rollback release kill uninstall verify version completion help"},
		{[]string{"s"}, "server status snapshot"},
		{[]string{"--v"}, "--version"},
		{[]string{"--h"}, "--help"},
		{[]string{"config", ""}, "print check"},
		{[]string{"config", "p"}, "print"},
		{[]string{"server", "--disable-"}, "--disable-agent --disable-scheduler --disable-controller-manager --disable-kube-proxy --disable-node-local-dns --disable-default-registry-endpoint"},
		{[]string{"agent", "--serv"}, "--server"},
		{[]string{"server", "--serv"}, "--service-cidr --service-node-port-range"},
		{[]string{"server", "--flannel-backend", ""}, "vxlan host-gw none"},
		{[]string{"server", "--flannel-backend", "h"}, "host-gw"},
		{[]string{"server", "--flannel-backend=h"}, "--flannel-backend=host-gw"},
		{[]string{"server", "--flannel-backend", "none", "--clusterx"}, ""},
		{[]string{"server", "--data-dir", ""}, ""}, // files
		{[]string{"server", "-d", "server", "--flannel-b"}, "--flannel-backend"},
		{[]string{"server", "--debug", "--token-f"}, "--token-file"},
		{[]string{"config", "print", "--for", ""}, "server agent"},
		{[]string{"status", "-o", ""}, "text json"},
		{[]string{"status", "--he"}, "--help"},
		{[]string{"server", ""}, ""},
		{[]string{"completion", "f"}, "fish"},
		{[]string{"nothing", "--unknown", "x"}, ""},
	} {
		var got []string
		for _, candidate := range complete(app, c.words) {
			got = append(got, candidate.word)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q: %q, want %q", c.words, got, c.want)
		}
	}
}

func TestCompletionOutput(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	if code := r.run("config", "p", completionFlag); code != ExitOK || r.stdout.String() != "print\tPrint the effective configuration and where each value comes from\n" {
		t.Errorf("exit %d: %q", code, &r.stdout)
	}
}

// installed is a directory for PATH in which limpet is this test binary.
func installed(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "limpet")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// shell runs a script with limpet on its PATH.
func shell(t *testing.T, shell, script string) string {
	t.Helper()
	path, err := exec.LookPath(shell)
	if err != nil {
		t.Skipf("no %s on this machine", shell)
	}
	cmd := exec.CommandContext(t.Context(), path, "-c", script)
	cmd.Env = append(os.Environ(), asLimpet+"=1", "PATH="+installed(t)+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", shell, err, out)
	}
	return string(out)
}

// bash completes as readline would: the script is sourced and its function
// called with COMP_WORDS, split as readline splits (at = and : too).
func TestBash(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		words string // as bash array elements
		want  []string
	}{
		{`limpet ""`, []string{"server", "agent", "token", "node", "kubectl", "ctr", "status", "snapshot", "datastore", "bundle", "check-config", "config", "doctor", "upgrade", "rollback", "release", "kill", "uninstall", "verify", "version", "completion", "help"}},
		{`limpet co`, []string{"config", "completion"}},
		{`limpet server --flannel-i`, []string{"--flannel-iface"}},
		{`limpet server --flannel-backend ""`, []string{"vxlan", "host-gw", "none"}},
		{`limpet server --flannel-backend = h`, []string{"host-gw"}},
		{`limpet server --flannel-backend =`, []string{"vxlan", "host-gw", "none"}},
		{`limpet agent --server https : //x : 6443 --token-f`, []string{"--token-file"}},
		{`limpet server --data-dir "/a b/`, nil},
		{`limpet kubectl get po`, []string{"pods-for-get+po"}},
		{`limpet kubectl get ""`, []string{"pods-for-get+"}},
		{`limpet kub`, []string{"kubectl"}},
	} {
		t.Run(c.words, func(t *testing.T) {
			t.Parallel()
			words := c.words
			if strings.Count(words, `"`)%2 == 1 {
				words += `"`
			}
			out := shell(t, "bash", `set -u; source <(limpet completion bash)
				complete -p limpet >/dev/null || exit 1
				COMP_WORDS=(`+words+`); COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); _limpet limpet
				(( ${#COMPREPLY[@]} )) && printf '%s\n' "${COMPREPLY[@]}"; exit 0`)
			got := strings.Fields(out)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestZsh(t *testing.T) {
	t.Parallel()
	// _describe needs a line editor; a function of that name shows what it is given.
	out := shell(t, "zsh", `compdef() { :; }; eval "$(limpet completion zsh)"
		_describe() { print -l -- ${(P)2}; }; _files() { print files; }
		ask() { words=("$@"); CURRENT=$#words; _limpet; }
		ask limpet config ""; ask limpet server --flannel-backend h; ask limpet server --data-dir /; ask limpet kubectl get po`)
	want := "print:Print the effective configuration and where each value comes from\ncheck:Check the configuration and report every problem\n" +
		"host-gw:\nfiles\npods-for-get+po:description\n"
	if out != want {
		t.Errorf("got  %s\nwant %s", out, want)
	}
}

func TestFish(t *testing.T) {
	t.Parallel()
	out := shell(t, "fish", `limpet completion fish | source
		for line in "limpet config " "limpet server --flannel-backend h" "limpet kubectl get po" "limpet server --data-dir completion.fi"
			complete --do-complete "$line"
		end`)
	want := "check\tCheck the configuration and report every problem\nprint\tPrint the effective configuration and where each value comes from\n" +
		"host-gw\npods-for-get+po\tdescription\ncompletion.fish\n"
	if out != want {
		t.Errorf("got  %s\nwant %s", out, want)
	}
}
