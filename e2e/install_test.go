package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// installTree is what install.sh could change on a machine.
const installTree = `find /etc /usr /opt /root /var/lib /run/limpet-install.lock /tmp -xdev ! -path '/tmp/systemd-private*' -printf '%p %M %s %l\n' 2>/dev/null | grep -v '^/etc \|^/usr/local/bin \|^/tmp \|^/opt ' | sort`

// proxyValue is what a careless person may have as a proxy's password.
const proxyValue = `http://user:p"a'ss $word%n` + "`x`" + `\@10.99.0.1:3128/`

// TestInstall installs limpet with one command on a bare machine with systemd, after
// everything that can go wrong has, and goes on with updates, reboots and a second
// machine that joins from an air-gap archive.
func TestInstall(t *testing.T) {
	t.Parallel()
	m := newMachines(t, "systemd", 2)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	m.releases.publish(t, "v0.1.1", env.bin)
	before := m.state(ctx, t, node1, machineState)

	t.Run("failures change nothing", func(t *testing.T) { m.failedInstalls(ctx, t) })
	t.Run("power cut in a download", func(t *testing.T) { m.cutDownload(ctx, t) })

	r := m.curlPipe(ctx, node1, "HTTPS_PROXY='"+strings.ReplaceAll(proxyValue, "'", `'\''`)+"'", "NO_PROXY=10.0.0.0/8,.local")
	if r.code != 0 || !strings.Contains(r.stdout, "signature checked by openssl") || !strings.Contains(r.stdout, "is up") {
		t.Fatalf("curl | sh: exit status %d:\n%s", r.code, r.text())
	}
	m.nodeReady(ctx, t)
	t.Logf("curl | sh on a bare machine: node Ready after %.1f s", r.took.Seconds())
	m.mustIn(ctx, t, node1, "grep", "-qzxF", "HTTPS_PROXY="+proxyValue, fmt.Sprintf("/proc/%s/environ", m.mainPID(ctx, t)))
	m.startPod(ctx, t)

	pid := m.mainPID(ctx, t)
	if r := m.curlPipe(ctx, node1); r.code != 0 || !strings.Contains(r.stdout, "not restarted") || m.mainPID(ctx, t) != pid {
		t.Errorf("once more: exit status %d:\n%s", r.code, r.text())
	}
	t.Run("two at once", func(t *testing.T) { m.twoInstalls(ctx, t) })
	t.Run("update", func(t *testing.T) { m.updates(ctx, t) })
	t.Run("power cut in an update", func(t *testing.T) { m.cutUpdate(ctx, t) })
	t.Run("air gap agent", func(t *testing.T) { m.airGapAgent(ctx, t) })
	t.Run("removal", func(t *testing.T) { m.removal(ctx, t, node1, "/usr/local/bin", before) })
}

// failedInstalls tries what must fail on a machine without limpet.
func (m *machines) failedInstalls(ctx context.Context, t *testing.T) {
	m.mustIn(ctx, t, node1, "sh", "-c", `mkdir /root/shim && printf '#!/bin/sh\necho riscv64\n' >/root/shim/uname && chmod +x /root/shim/uname`)
	before := m.mustIn(ctx, t, node1, "sh", "-c", installTree)
	binary := "/v0.1.1/limpet-amd64"
	replace := func(name string, data string, length int) func(http.ResponseWriter, string) bool {
		return func(w http.ResponseWriter, path string) bool {
			if path != name {
				return false
			}
			w.Header().Set("Content-Length", fmt.Sprint(length))
			_, _ = w.Write([]byte(data))
			return true
		}
	}
	fails := func(what, text string, hook func(http.ResponseWriter, string) bool, words ...string) {
		t.Helper()
		m.releases.with(hook, func() {
			r := m.curlPipe(ctx, node1, words...)
			if r.code == 0 || !strings.Contains(r.text(), text) {
				t.Errorf("%s: exit status %d, want a failure that says %q:\n%s", what, r.code, text, r.text())
			}
		})
		if after := m.mustIn(ctx, t, node1, "sh", "-c", installTree); after != before {
			t.Fatalf("%s changed the machine: %s", what, changedLines(before, after))
		}
	}
	evil := "#!/bin/sh\ntouch /root/evil\n"
	fails("a tampered binary", "is damaged or was changed", replace(binary, evil, len(evil)))
	fails("a truncated download", "cannot get", replace(binary, evil, 1000))
	fails("changed checksums", "signature of the release does not match", replace("/v0.1.1/sha256sums", evil, len(evil)))
	fails("a release that is not there", "cannot get", nil, "INSTALL_LIMPET_VERSION=v9.9.9")
	fails("another key", "signature of the release does not match", nil, "INSTALL_LIMPET_PUBLIC_KEY=RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3")
	fails("wrong flags", "limpet server would refuse its configuration", nil, "INSTALL_LIMPET_EXEC='server --cluster-cidr nonsense'")
	m.mustIn(ctx, t, node1, "mount", "-t", "tmpfs", "-o", "size=64m", "small", "/mnt")
	fails("a full disk", "MiB free", nil, "INSTALL_LIMPET_BIN_DIR=/mnt")
	m.mustIn(ctx, t, node1, "umount", "/mnt")
	fails("an unknown architecture", "there is no limpet for the architecture 'riscv64'", nil, "PATH=/root/shim:$PATH")
	m.noSpace(ctx, t)
	m.mustIn(ctx, t, node1, "rm", "-r", "/root/shim")
}

// noSpace: there is none for the helper programs, which limpet finds when it starts.
func (m *machines) noSpace(ctx context.Context, t *testing.T) {
	t.Helper()
	before := m.mustIn(ctx, t, node1, "bash", "-c", installTree)
	m.mustIn(ctx, t, node1, "sh", "-c", "mkdir /var/lib/limpet && mount -t tmpfs -o size=30m small /var/lib/limpet")
	r := m.curlPipe(ctx, node1)
	if r.code == 0 || !strings.Contains(r.text(), "no space at /var/lib/limpet") || !strings.Contains(r.text(), "the installation is taken back") {
		t.Errorf("no space for unpacking: exit status %d:\n%s", r.code, r.text())
	}
	m.mustIn(ctx, t, node1, "sh", "-c", "umount /var/lib/limpet && rmdir /var/lib/limpet")
	if after := m.mustIn(ctx, t, node1, "bash", "-c", installTree); after != before {
		t.Errorf("no space for unpacking changed the machine: %s", changedLines(before, after))
	}
}

// cutDownload: the power fails while the first binary comes.
func (m *machines) cutDownload(ctx context.Context, t *testing.T) {
	waits, release := make(chan struct{}), make(chan struct{})
	hold := func(w http.ResponseWriter, path string) bool {
		if !strings.HasSuffix(path, "/limpet-amd64") {
			return false
		}
		w.Header().Set("Content-Length", "200000000")
		_, _ = w.Write(make([]byte, 10_000_000))
		close(waits)
		<-release
		return true
	}
	m.cutPower(ctx, t, hold, waits)
	close(release)
	if left := m.mustIn(ctx, t, node1, "sh", "-c", "ls -A /usr/local/bin; ls /etc/systemd/system | grep limpet || :"); !strings.HasPrefix(left, ".limpet-install.") {
		t.Errorf("the machine was not installing: %q", left)
	}
}

// cutUpdate: the power fails when the new binary is in place and the rest is not; then
// the machine works, and the update can be had once more.
func (m *machines) cutUpdate(ctx context.Context, t *testing.T) {
	m.mustIn(ctx, t, node1, "sh", "-c", `mkdir /root/shim && cat >/root/shim/sync <<'END' && chmod +x /root/shim/sync
#!/bin/sh
case $1 in *.installed.new) curl -s `+m.releases.url+`/cut ;; esac
exec /bin/sync "$@"
END`)
	waits, release := make(chan struct{}), make(chan struct{})
	hold := func(_ http.ResponseWriter, path string) bool {
		if path == "/cut" {
			close(waits)
			<-release
		}
		return false
	}
	m.cutPower(ctx, t, hold, waits, "PATH=/root/shim:$PATH", "INSTALL_LIMPET_VERSION=v0.1.1")
	close(release)
	m.nodeReady(ctx, t)
	m.mustIn(ctx, t, node1, "limpet", "kubectl", "wait", "--timeout=60s", "--for=condition=Ready", "pod/web")
	m.mustIn(ctx, t, node1, "rm", "-r", "/root/shim")
	if r := m.curlPipe(ctx, node1, "INSTALL_LIMPET_VERSION=v0.1.1"); r.code != 0 || !strings.Contains(r.stdout, "limpet v0.1.1") {
		t.Errorf("the update once more: exit status %d:\n%s", r.code, r.text())
	}
	if left := m.mustIn(ctx, t, node1, "find", "/etc", "/usr", "/var", "-name", ".limpet-install*"); left != "" {
		t.Errorf("left:\n%s", left)
	}
}

// cutPower reboots n1 while install.sh waits for the hook, which closes waits.
func (m *machines) cutPower(ctx context.Context, t *testing.T, hook func(http.ResponseWriter, string) bool, waits <-chan struct{}, words ...string) {
	t.Helper()
	m.releases.with(hook, func() {
		ended := make(chan result, 1)
		go func() { ended <- m.curlPipe(ctx, node1, words...) }()
		select {
		case <-waits:
		case r := <-ended:
			t.Fatalf("install.sh ended early: %s", r.text())
		}
		m.machine(t, "machine", "reboot", node1)
		if r := <-ended; r.code == 0 {
			t.Errorf("install.sh succeeded without power:\n%s", r.text())
		}
	})
}

func (m *machines) nodeReady(ctx context.Context, t *testing.T) {
	t.Helper()
	m.mustIn(ctx, t, node1, "sh", "-c", "until limpet kubectl wait --timeout=60s --for=condition=Ready node/n1; do sleep 1; done 2>/dev/null")
}

func (m *machines) mainPID(ctx context.Context, t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(m.mustIn(ctx, t, node1, "systemctl", "show", "-p", "MainPID", "--value", "limpet"))
}

// startPod starts one from an image file.
func (m *machines) startPod(ctx context.Context, t *testing.T) {
	t.Helper()
	image, err := os.ReadFile(filepath.Join(env.images, "httpd-1.tar"))
	if err != nil {
		t.Fatal(err)
	}
	m.drop(t, node1, dataDir+"/agent/images/httpd-1.tar", image)
	m.mustIn(ctx, t, node1, "limpet", "kubectl", "run", "web", "--image="+imageHTTPD, "--image-pull-policy=IfNotPresent", "--restart=Always")
	m.mustIn(ctx, t, node1, "limpet", "kubectl", "wait", "--timeout=60s", "--for=condition=Ready", "pod/web")
}

func (m *machines) containerID(ctx context.Context, t *testing.T) string {
	t.Helper()
	return m.mustIn(ctx, t, node1, "limpet", "kubectl", "get", "pod", "web", "-o", "jsonpath={.status.containerStatuses[0].containerID}")
}

// twoInstalls: the server answers the first only when the second has ended.
func (m *machines) twoInstalls(ctx context.Context, t *testing.T) {
	waits, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	hold := func(_ http.ResponseWriter, path string) bool {
		if path == "/stable/latest" {
			once.Do(func() { close(waits) })
			<-release
		}
		return false
	}
	m.releases.with(hold, func() {
		first := make(chan result, 1)
		go func() { first <- m.curlPipe(ctx, node1) }()
		select {
		case <-waits:
		case r := <-first:
			t.Fatalf("the first ended early: %s", r.text())
		}
		second := m.curlPipe(ctx, node1)
		close(release)
		if second.code == 0 || !strings.Contains(second.text(), "another installation is running") {
			t.Errorf("the second: exit status %d: %s", second.code, second.text())
		}
		if r := <-first; r.code != 0 {
			t.Errorf("the first: exit status %d: %s", r.code, r.text())
		}
	})
}

// updates: to a newer binary, and to one that does not start.
func (m *machines) updates(ctx context.Context, t *testing.T) {
	data, err := os.ReadFile(env.bin)
	if err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(t.TempDir(), "limpet")
	if err := os.WriteFile(newer, append(data, 0), 0o755); err != nil { // other bytes that do the same
		t.Fatal(err)
	}
	m.releases.publish(t, "v0.2.0", newer)
	pid, container := m.mainPID(ctx, t), m.containerID(ctx, t)
	if r := m.curlPipe(ctx, node1); r.code != 0 || !strings.Contains(r.stdout, "is up") || m.mainPID(ctx, t) == pid {
		t.Fatalf("update: exit status %d:\n%s", r.code, r.text())
	}
	m.nodeReady(ctx, t)
	if got := m.containerID(ctx, t); got != container {
		t.Errorf("the pod's container was %s and is %s after an update", container, got)
	}

	before := m.mustIn(ctx, t, node1, "sh", "-c", "sha256sum /usr/local/bin/limpet /etc/systemd/system/limpet.service* /var/lib/limpet/installed")
	m.releases.publish(t, "v0.3.0", brokenBinary(t))
	if r := m.curlPipe(ctx, node1); r.code == 0 || !strings.Contains(r.text(), "cannot start") {
		t.Errorf("a binary that does not start: exit status %d:\n%s", r.code, r.text())
	}
	if after := m.mustIn(ctx, t, node1, "sh", "-c", "sha256sum /usr/local/bin/limpet /etc/systemd/system/limpet.service* /var/lib/limpet/installed"); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	m.mustIn(ctx, t, node1, "sh", "-c", "until systemctl is-active --quiet limpet; do sleep 0.5; done")
	m.nodeReady(ctx, t)
	if got := m.containerID(ctx, t); got != container {
		t.Errorf("the pod's container was %s and is %s after a failed update", container, got)
	}
	m.releases.point(t, "v0.2.0")
}

// airGapAgent joins a second machine that has no way to the release server, and a
// read-only /usr/local.
func (m *machines) airGapAgent(ctx context.Context, t *testing.T) {
	m.up(t, "n2")
	before := m.state(ctx, t, "n2", machineState)
	archive := filepath.Join(m.releases.dir, "v0.2.0", "limpet-airgap-amd64.tar.zst")
	if out, err := exec.CommandContext(ctx, "tar", "--zstd", "-xf", archive, "-C", m.path(t, "n2", "/root")).CombinedOutput(); err != nil {
		t.Fatalf("unpack the archive: %v: %s", err, out)
	}
	m.mustIn(ctx, t, "n2", "sh", "-c", "mount --bind /usr/local /usr/local && mount -o remount,bind,ro /usr/local")
	token := strings.TrimSpace(m.mustIn(ctx, t, node1, "cat", dataDir+"/server/token"))
	r := m.in(ctx, "n2", "env", "LIMPET_URL=https://"+m.nodeIP(t, node1)+":6443", "LIMPET_TOKEN="+token, "sh", "/root/limpet-airgap-amd64/install.sh")
	if r.code != 0 || !strings.Contains(r.stdout, "installing from the files in /root/limpet-airgap-amd64") || !strings.Contains(r.stdout, "the binary goes to /opt/bin") {
		t.Fatalf("exit status %d:\n%s", r.code, r.text())
	}
	m.mustIn(ctx, t, node1, "limpet", "kubectl", "wait", "--timeout=60s", "--for=create", "node/n2")
	m.mustIn(ctx, t, node1, "limpet", "kubectl", "wait", "--timeout=60s", "--for=condition=Ready", "node/n2")
	m.mustIn(ctx, t, "n2", "sh", "-c", "test -f "+dataDir+"/agent/images/httpd-1.tar && test $(stat -c %a /etc/systemd/system/limpet-agent.service.env) = 600 && test -x /opt/bin/limpet && test ! -e /usr/local/bin/limpet")
	m.mustIn(ctx, t, "n2", "sh", "-c", "umount /usr/local && rm -r /root/limpet-airgap-amd64")
	m.removal(ctx, t, "n2", "/opt/bin", before)
}

// brokenBinary is a program that can do everything but start.
func brokenBinary(t *testing.T) string {
	t.Helper()
	const source = `package main

import "os"

func main() {
	if os.Args[1] == "server" {
		println("cannot start")
		os.Exit(1)
	}
}
`
	return compiled(t, source)
}

// changedLines are those of one text that the other lacks.
func changedLines(before, after string) string {
	var b strings.Builder
	had, has := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, line := range had {
		if !slices.Contains(has, line) {
			fmt.Fprintf(&b, "\n- %s", line)
		}
	}
	for _, line := range has {
		if !slices.Contains(had, line) {
			fmt.Fprintf(&b, "\n+ %s", line)
		}
	}
	return b.String()
}
