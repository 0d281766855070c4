package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// upgradeExit are exit codes of limpet upgrade; docs/upgrade.md lists them.
const (
	exitBadSignature = 30
	exitWrongMachine = 31
	exitUnderWay     = 36
	exitWayBack      = 37
	exitCameBack     = 40
)

// TestUpgrade upgrades a machine with systemd, well and badly, cuts its power in the
// middle, and goes back.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	m := newMachines(t, "systemd", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	m.releases.publish(t, "v0.1.1", env.bin)
	if r := m.curlPipe(ctx, node1); r.code != 0 {
		t.Fatalf("install: exit status %d:\n%s", r.code, r.text())
	}
	u := &upgrades{cluster: m.cluster, releases: m.releases}
	t.Cleanup(func() {
		if t.Failed() {
			r := m.in(context.Background(), node1, "sh", "-c", "journalctl -u limpet-upgrade-guard --no-pager -o cat; "+
				"journalctl -u limpet --no-pager -o cat | grep -m3 -A12 -E '^(panic|fatal error|SIG)'")
			t.Logf("the guard's journal, and what made limpet crash:\n%s", r.text())
		}
	})
	m.nodeReady(ctx, t)
	m.startPod(ctx, t)
	m.mustIn(ctx, t, node1, "limpet", "kubectl", "create", "configmap", "before")
	m.releases.publish(t, "v0.2.0", otherBytes(t, 1))
	m.releases.publish(t, "v0.3.0", badBinary(t, "os.Exit(1)"))
	m.releases.publish(t, "v0.3.1", badBinary(t, "time.Sleep(time.Hour)"))
	container := m.containerID(ctx, t)
	first := u.installed(ctx, t, "/usr/local/bin/limpet")

	u.refusals(ctx, t)
	if got := u.installed(ctx, t, "/usr/local/bin/limpet"); got != first {
		t.Fatalf("what was refused has changed the binary")
	}
	load := m.node(t, node1).sendTraffic(ctx, "http://"+m.podIP(ctx, t)+":"+httpPortText+"/version")

	upgraded := u.begin(ctx, t, "v0.2.0", "watching")
	if r := u.upgrade(ctx, "v0.3.0"); r.code != exitUnderWay {
		t.Errorf("a second upgrade: exit status %d:\n%s", r.code, r.text())
	}
	m.mustIn(ctx, t, node1, "systemctl", "kill", "-s", "KILL", "limpet-upgrade-guard") // it is started again, and goes on
	r := <-upgraded
	if r.code != 0 || !strings.Contains(r.stdout, "is up and healthy") {
		t.Fatalf("a good upgrade: exit status %d:\n%s", r.code, r.text())
	}
	t.Logf("a good upgrade took %.1f s", r.took.Seconds())
	u.concluded(ctx, t, "confirmed", u.installed(ctx, t, "/usr/local/bin/limpet") == first)

	m.mustIn(ctx, t, node1, "limpet", "kubectl", "create", "configmap", "after")
	if r = m.in(ctx, node1, "limpet", "rollback", "--yes"); r.code != 0 {
		t.Fatalf("rollback: exit status %d:\n%s", r.code, r.text())
	}
	t.Logf("a rollback took %.1f s", r.took.Seconds())
	u.concluded(ctx, t, "confirmed", u.installed(ctx, t, "/usr/local/bin/limpet") != first)
	m.mustIn(ctx, t, node1, "limpet", "kubectl", "get", "configmap", "before")
	if r := m.in(ctx, node1, "limpet", "kubectl", "get", "configmap", "after"); r.code == 0 {
		t.Error("an object that was made after the upgrade is there after the rollback")
	}
	if r := m.in(ctx, node1, "limpet", "rollback", "--yes"); r.code != exitWayBack {
		t.Errorf("a second rollback: exit status %d:\n%s", r.code, r.text())
	}

	r = u.upgrade(ctx, "v0.3.0")
	if r.code != exitCameBack || !strings.Contains(r.stderr, "limpet ended") {
		t.Fatalf("a version that does not start: exit status %d:\n%s", r.code, r.text())
	}
	t.Logf("a version that does not start: back after %.1f s", r.took.Seconds())
	u.concluded(ctx, t, "rolled-back", u.installed(ctx, t, "/usr/local/bin/limpet") != first)
	load.mustBeUnharmed(t, "requests to a pod during an upgrade, a rollback, and an upgrade that failed")
	if got := m.containerID(ctx, t); got != container {
		t.Errorf("the pod's container was %s and is %s", container, got)
	}

	// The machine does all by itself after a power cut: nobody calls limpet upgrade.
	u.cutAt(ctx, t, "v0.3.1", "watching", func() { m.machine(t, "machine", "reboot", node1) })
	u.await(ctx, t, "rolled-back")
	m.nodeReady(ctx, t)
	u.concluded(ctx, t, "rolled-back", u.installed(ctx, t, "/usr/local/bin/limpet") != first)
	m.mustIn(ctx, t, node1, "limpet", "kubectl", "get", "configmap", "before")
	m.mustIn(ctx, t, node1, "limpet", "kubectl", "wait", "--timeout=60s", "--for=condition=Ready", "pod/web")
}

// TestUpgradeOpenRC cuts the power of a machine with OpenRC in the middle of an upgrade
// to a version that hangs: the guard, a service by then, goes back.
func TestUpgradeOpenRC(t *testing.T) {
	t.Parallel()
	m := newMachines(t, "openrc", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	m.releases.publish(t, "v0.1.1", env.bin)
	if r := m.curlPipe(ctx, node1); r.code != 0 {
		t.Fatalf("install: exit status %d:\n%s", r.code, r.text())
	}
	u := &upgrades{cluster: m.cluster, releases: m.releases}
	m.nodeReady(ctx, t)
	m.releases.publish(t, "v0.3.1", badBinary(t, "time.Sleep(time.Hour)"))
	first := u.installed(ctx, t, "/usr/local/bin/limpet")
	u.cutAt(ctx, t, "v0.3.1", "watching", func() { m.machine(t, "machine", "reboot", node1) })
	u.await(ctx, t, "rolled-back")
	u.concluded(ctx, t, "rolled-back", u.installed(ctx, t, "/usr/local/bin/limpet") != first)
	m.nodeReady(ctx, t)
}

// TestUpgradeInPlace upgrades a server that nobody watches over: it becomes the new
// version with the same pid, and a power cut in the middle is noticed by limpet itself.
func TestUpgradeInPlace(t *testing.T) {
	t.Parallel()
	c := ownCluster(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	u := &upgrades{cluster: c, releases: newReleaseServer(t, c.node(t, lan))}
	if r := u.upgradeTo(ctx, "/nowhere/limpet-amd64"); r.code == 0 {
		t.Error("a file that is not there was taken")
	}
	u.movable(ctx, t)
	first := u.installed(ctx, t, "/opt/limpet")
	u.releases.publish(t, "v0.2.0", otherBytes(t, 1))
	pid := c.must(ctx, t, "pid", node1)
	u.cutAt(ctx, t, "v0.2.0", "watching", func() {
		if now := c.must(ctx, t, "pid", node1); now != pid {
			t.Errorf("limpet's pid was %s and is %s", pid, now)
		}
		c.must(ctx, t, "reboot", node1)
	})
	u.await(ctx, t, "confirmed")
	u.concluded(ctx, t, "confirmed", u.installed(ctx, t, "/opt/limpet") == first)
}

// upgrades are tried on n1.
type upgrades struct {
	*cluster
	releases *releaseServer
}

// movable starts limpet from a file that can be replaced; /usr/local/bin of test nodes
// is read-only.
func (u *upgrades) movable(ctx context.Context, t *testing.T) {
	t.Helper()
	u.mustIn(ctx, t, node1, "cp", "/usr/local/bin/limpet", "/opt/limpet")
	file := filepath.Join(u.dir, node1, "argv")
	argv, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(strings.Replace(string(argv), "/usr/local/bin/limpet", "/opt/limpet", 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	u.must(ctx, t, "stop", node1)
	u.must(ctx, t, "start", node1)
	u.must(ctx, t, "wait", node1)
}

// refusals are of what must not even begin.
func (u *upgrades) refusals(ctx context.Context, t *testing.T) {
	refused := func(what string, code int, text string, r result) {
		t.Helper()
		if r.code != code || !strings.Contains(r.text(), text) {
			t.Errorf("%s: exit status %d, want %d and %q:\n%s", what, r.code, code, text, r.text())
		}
	}
	base := u.releases.url + "/v0.2.0/"
	refused("the same version", 0, "nothing to do", u.upgrade(ctx, "v0.1.1"))
	refused("another architecture", exitWrongMachine, "this machine is amd64", u.upgradeTo(ctx, base+"limpet-airgap-arm64.tar.zst"))
	evil := func(path string) func(http.ResponseWriter, string) bool {
		return func(w http.ResponseWriter, asked string) bool {
			if asked == path {
				_, _ = w.Write([]byte("#!/bin/sh\ntouch /root/evil\n"))
			}
			return asked == path
		}
	}
	u.releases.with(evil("/v0.2.0/limpet-amd64"), func() {
		refused("a tampered binary", exitBadSignature, "checksum does not match", u.upgradeTo(ctx, base+"limpet-amd64"))
	})
	u.releases.with(evil("/v0.2.0/sha256sums"), func() {
		refused("tampered checksums", exitBadSignature, "signature does not match", u.upgradeTo(ctx, base+"limpet-amd64"))
	})
	refused("another key", exitBadSignature, "not signed with the key", u.in(ctx, node1, "limpet", "upgrade",
		"--to", base+"limpet-amd64", "--public-key", "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"))
	refused("a rollback of nothing", exitWayBack, "has not been upgraded", u.in(ctx, node1, "limpet", "rollback", "--yes"))
	u.mustIn(ctx, t, node1, "sh", "-c", "test ! -e /root/evil && test ! -e "+dataDir+"/upgrade/staged && test ! -e "+dataDir+"/upgrade/journal.json")
}

func (u *upgrades) upgrade(ctx context.Context, version string) result {
	return u.upgradeTo(ctx, version)
}

// upgradeTo gives a healthy version all the time that a slow machine needs, and one that
// cannot become healthy some.
func (u *upgrades) upgradeTo(ctx context.Context, source string) result {
	timeout := "3m"
	if source == "v0.3.1" {
		timeout = "5s"
	}
	return u.in(ctx, node1, "limpet", "upgrade", "--to", source, "--release-url", u.releases.url, "--public-key", u.releases.key, "--timeout", timeout)
}

// installed is the checksum of the binary.
func (u *upgrades) installed(ctx context.Context, t *testing.T, path string) string {
	t.Helper()
	return u.mustIn(ctx, t, node1, "sha256sum", path)
}

// journal is what the record of the newest upgrade says.
type upgradeJournal struct{ ID, Phase, Reason, Unwell string }

func (u *upgrades) journal(t *testing.T) (j upgradeJournal) {
	t.Helper()
	data, err := os.ReadFile(u.path(t, node1, dataDir+"/upgrade/journal.json"))
	if errors.Is(err, os.ErrNotExist) {
		return j
	}
	if err == nil {
		err = json.Unmarshal(data, &j)
	}
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// cutAt begins an upgrade and cuts the power when it is in a phase.
func (u *upgrades) cutAt(ctx context.Context, t *testing.T, version, phase string, cut func()) {
	t.Helper()
	ended := u.begin(ctx, t, version, phase)
	cut()
	if r := <-ended; r.code == 0 {
		t.Errorf("the command says that the upgrade succeeded before the power cut: %s", r.text())
	}
}

// begin begins an upgrade and returns when it is in a phase; what the command says follows.
func (u *upgrades) begin(ctx context.Context, t *testing.T, version, phase string) <-chan result {
	t.Helper()
	before := u.journal(t)
	ended := make(chan result, 1)
	go func() { ended <- u.upgrade(ctx, version) }()
	eventually(ctx, t, "the upgrade is "+phase, func() error {
		j := u.journal(t)
		if j.ID != before.ID && (j.Phase == "abandoned" || j.Phase == "confirmed" || j.Phase == "rolled-back") {
			t.Fatalf("the upgrade has ended before: %+v", j)
		}
		if j.ID == before.ID || j.Phase != phase {
			return fmt.Errorf("its journal says %+v", j)
		}
		return nil
	})
	return ended
}

// await waits for the end that the machine comes to by itself.
func (u *upgrades) await(ctx context.Context, t *testing.T, phase string) {
	t.Helper()
	eventually(ctx, t, "the upgrade is "+phase, func() error {
		if j := u.journal(t); j.Phase != phase || j.Unwell != "" {
			return fmt.Errorf("its journal says %+v", j)
		}
		return nil
	})
}

// concluded: nothing of the guard is left, and limpet is well.
func (u *upgrades) concluded(ctx context.Context, t *testing.T, phase string, wrongBinary bool) {
	t.Helper()
	if j := u.journal(t); j.Phase != phase || j.Unwell != "" {
		t.Errorf("the journal says %+v, want %s", j, phase)
	}
	if wrongBinary {
		t.Errorf("after the upgrade was %s: the wrong binary is installed", phase)
	}
	eventually(ctx, t, "the guard has gone", func() error {
		r := u.in(ctx, node1, "sh", "-c", "ls -d /etc/systemd/system/limpet-upgrade-guard* /etc/systemd/system/*/limpet-upgrade-guard* /etc/init.d/limpet-upgrade-guard /etc/runlevels/*/limpet-upgrade-guard "+
			dataDir+"/upgrade/staged "+dataDir+"/upgrade/command.json 2>/dev/null; pgrep -f 'upgrade [g]uard'")
		if left := strings.TrimSpace(r.stdout); left != "" {
			return fmt.Errorf("%s", left)
		}
		return nil
	})
	if r := u.in(ctx, node1, "limpet", "status"); r.code != 0 {
		t.Errorf("limpet status: exit status %d:\n%s", r.code, r.text())
	}
}

func (m *machines) podIP(ctx context.Context, t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(m.mustIn(ctx, t, node1, "limpet", "kubectl", "get", "pod", "web", "-o", "jsonpath={.status.podIP}"))
}

// otherBytes is the binary with other bytes that do the same.
func otherBytes(t *testing.T, n int) string {
	t.Helper()
	data, err := os.ReadFile(env.bin)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "limpet")
	if err := os.WriteFile(file, append(data, make([]byte, n)...), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// badBinary says its version, and as a server does only one thing.
func badBinary(t *testing.T, does string) string {
	t.Helper()
	source := `package main

import (
	"fmt"
	"os"
	"time"
)

var _ = time.Hour

func main() {
	if os.Args[1] == "version" {
		fmt.Println(` + "`" + `{"version": "v0.3.0", "kubernetesVersion": "v1.37.2+limpet", "platform": "linux/amd64"}` + "`" + `)
		return
	}
	fmt.Fprintln(os.Stderr, "bad binary")
	` + does + `
}
`
	return compiled(t, source)
}
