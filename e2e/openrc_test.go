package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestInstallOpenRC: a machine like Alpine, with nothing but busybox, openssl and OpenRC.
func TestInstallOpenRC(t *testing.T) {
	t.Parallel()
	m := newMachines(t, "openrc", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	m.releases.publish(t, "v0.1.1", env.bin)
	m.mustIn(ctx, t, node1, "mkdir", "/etc/logrotate.d")
	before := m.state(ctx, t, node1, machineState)

	m.noSpace(ctx, t)
	r := m.curlPipe(ctx, node1, "HTTPS_PROXY='"+strings.ReplaceAll(proxyValue, "'", `'\''`)+"'")
	if r.code != 0 || !strings.Contains(r.stdout, "signature checked by openssl") || !strings.Contains(r.stdout, "is up") {
		t.Fatalf("wget | sh: exit status %d:\n%s", r.code, r.text())
	}
	m.nodeReady(ctx, t)
	t.Logf("wget | sh on busybox: node Ready after %.1f s", r.took.Seconds())
	pid := strings.TrimSpace(m.mustIn(ctx, t, node1, "cat", dataDir+"/lock"))
	environ := m.mustIn(ctx, t, node1, "cat", fmt.Sprintf("/proc/%s/environ", pid))
	if !strings.Contains("\x00"+environ, "\x00HTTPS_PROXY="+proxyValue+"\x00") {
		t.Errorf("the proxy is not in limpet's environment: %q", environ)
	}
	m.startPod(ctx, t)
	container := m.containerID(ctx, t)
	if r := m.curlPipe(ctx, node1, "INSTALL_LIMPET_FORCE_RESTART=1"); r.code != 0 || !strings.Contains(r.stdout, "is up") {
		t.Errorf("once more: exit status %d:\n%s", r.code, r.text())
	}
	if now := strings.TrimSpace(m.mustIn(ctx, t, node1, "cat", dataDir+"/lock")); now == pid {
		t.Error("limpet was not restarted")
	}
	if got := m.containerID(ctx, t); got != container {
		t.Errorf("the pod's container was %s and is %s after a restart", container, got)
	}

	m.machine(t, "machine", "reboot", node1)
	m.nodeReady(ctx, t)
	m.mustIn(ctx, t, node1, "limpet", "kubectl", "wait", "--timeout=60s", "--for=condition=Ready", "pod/web")
	m.mustIn(ctx, t, node1, "sh", "-c", "test -s /etc/logrotate.d/limpet && cp /var/log/limpet.log /var/log/limpet.log.1")
	m.removal(ctx, t, node1, "/usr/local/bin", before)
}
