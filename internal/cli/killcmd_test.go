package cli

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestKill(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	if code := r.run("kill", "--grace", "3s", "-d", "/x"); code != ExitOK || r.killed == nil {
		t.Fatalf("exit %d: %s", code, &r.stderr)
	}
	if *r.killed != (Removal{DataDir: "/x", Grace: 3 * time.Second}) {
		t.Errorf("%+v", r.killed)
	}
	r = newRun(t)
	if code := r.run("kill", "--grace", "soon"); code != ExitUsage || r.killed != nil || !strings.Contains(r.stderr.String(), "--grace") {
		t.Errorf("exit %d: %s", code, &r.stderr)
	}
}

func TestKillWithABrokenConfiguration(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ file, dir, says string }{
		{"data-dir: /x\nno-such-key: 1\n", "/x", ""},
		{"node-ip: nonsense\n", "/var/lib/limpet", "has mistakes"},
		{"][", "/var/lib/limpet", "has mistakes"},
	} {
		r := newRun(t)
		write(t, r.app.DefaultConfigFile, c.file)
		if code := r.run("kill"); code != ExitOK || r.killed == nil || r.killed.DataDir != c.dir || r.killed.Grace != 10*time.Second {
			t.Errorf("%q: exit %d, %+v: %s", c.file, code, r.killed, &r.stderr)
		}
		if got := r.stderr.String(); (c.says == "") != (got == "") || !strings.Contains(got, c.says) {
			t.Errorf("%q: says %q", c.file, got)
		}
	}
}

func TestUninstallAsksOrIsTold(t *testing.T) {
	t.Parallel()
	pipe, other, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = pipe.Close(), other.Close() })
	r := newRun(t)
	r.app.Stdin = pipe
	if code := r.run("uninstall"); code != ExitUsage || r.uninstalled != nil || !strings.Contains(r.stderr.String(), "needs --yes") {
		t.Errorf("exit %d: %s", code, &r.stderr)
	}
	r = newRun(t)
	if code := r.run("uninstall", "--yes", "--keep-data"); code != ExitOK || r.uninstalled == nil || !r.uninstalled.KeepData {
		t.Errorf("exit %d, %+v: %s", code, r.uninstalled, &r.stderr)
	}
	r = newRun(t)
	r.err = errAction
	if code := r.run("uninstall", "-y"); code != ExitFailure || r.uninstalled.KeepData {
		t.Errorf("exit %d: %s", code, &r.stderr)
	}
}
