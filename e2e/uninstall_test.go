package e2e

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// nodeState prints all of a node that limpet may have a hand in, a line for
// each thing, without what changes by itself.
const nodeState = `
find / -xdev \( -path /proc -o -path /sys -o -path /usr -o -path /root/.kube -o -path /srv/kept \) -prune -o -printf 'file %p %y %m %l\n'
find /run /tmp /dev -xdev \( -path /run/node -o -path /dev/pts \) -prune -o -printf 'file %p %y %m\n'
` + kernelState

// kernelState is the part of it that is in the kernel.
const kernelState = `
awk '{print "mount", $5, $9, $10}' /proc/self/mountinfo
ip -o link | sed 's/^[0-9]*: /interface /'
ip route show table all | sed 's/^/route /'
ip rule | sed 's/^/rule /'
[ ! -e /srv/kept/nft ] || /srv/kept/nft/bin/nft list ruleset | sed 's/^/nft /'
find /sys/fs/cgroup -type d | sed 's/^/cgroup /'
cd /proc/sys
find net vm kernel -type f | grep -vE 'random|nf_conntrack_count|ns_last_pid|kernel/nr_|neigh|flush|/pty/|drop_caches|sched_domain|stat_refresh|compact_memory' |
while read -r s; do echo "sysctl $s $(tr '\n\t' '  ' <$s 2>/dev/null)"; done 2>/dev/null
`

// foreign is what other products of the machine have: some of it with names
// that limpet uses too. It prints the pid of a shim of somebody else's containerd.
const foreign = `
set -e
PATH=$PATH:/srv/kept/nft/bin
ip link add br-shop type bridge
ip link add flannel-v6.1 type bridge
nft add table inet shop
nft add chain inet shop input '{ type filter hook input priority 0; }'
nft add rule inet shop input tcp dport 9999 drop
nft add table ip6 cni_hostport
mkdir -p /var/lib/cni/results /opt/other/bin /run/containerd/runc/k8s.io/other /srv/data/sub
echo '{}' >/var/lib/cni/results/cbr0-other-eth0
ip netns add cni-other
cp /usr/bin/sleep /opt/other/bin/containerd-shim-runc-v2
for g in /sys/fs/cgroup/*/; do mkdir -p $g/other; done
(echo $BASHPID >/sys/fs/cgroup/pids/other/cgroup.procs 2>/dev/null || true
 exec setsid /opt/other/bin/containerd-shim-runc-v2 100000 </dev/null >/dev/null 2>&1) &
echo $!
`

// asInstalled does what install.sh does to a machine.
const asInstalled = `
set -e
mkdir -p /opt/shop /var/lib/limpet /etc/systemd/system
printf '#!/bin/sh\n' >/opt/shop/limpet
ln -s limpet /opt/shop/kubectl
ln -sfn /usr/bin/env /opt/shop/ctr
printf '[Service]\n' >/etc/systemd/system/limpet.service
printf '%s\n' '# by install.sh' /opt/shop/ /var/lib/limpet/ /etc/systemd/system/ /etc/systemd/ \
  /opt/shop/limpet /opt/shop/kubectl /opt/shop/ctr /etc/systemd/system/limpet.service >/var/lib/limpet/installed
`

const volumesPod = `
apiVersion: v1
kind: Pod
metadata: {name: volumes, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: ` + imageBusybox + `
    imagePullPolicy: Never
    command: [sleep, "100000"]
    ports: [{containerPort: 80, hostPort: 8088}]
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: memory, mountPath: /memory}
    - {name: host, mountPath: /host}
    - {name: host, mountPath: /part, subPath: sub}
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: host, hostPath: {path: /srv/data}}
`

// TestUninstall: what limpet has done to a machine is undone, and what others
// have there stays.
func TestUninstall(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := ownCluster(t, 1)
	sh := func(script string) string { return c.mustIn(ctx, t, node1, "bash", "-c", script) }
	sh("mkdir -p /srv/kept && cp -a /var/lib/limpet/data/current/. /srv/kept/nft")
	limpet(ctx, t, c, 0, "uninstall", "--yes", "--grace", "1s")

	other := strings.TrimSpace(sh(foreign))
	before := state(ctx, t, c)
	alive := func(when string) {
		t.Helper()
		if r := c.in(ctx, node1, "kill", "-0", other); r.code != 0 {
			t.Fatalf("%s: the other containerd's shim was ended", when)
		}
	}

	sh(asInstalled)
	startWithPod(ctx, t, c)
	identity := sh("limpet kubectl get node -o 'jsonpath={.items[0].metadata.uid}'")

	// Somebody's shell stands in a volume: it is named, and not ended.
	busy := strings.TrimSpace(sh(`cd /var/lib/kubelet/pods/*/volumes/kubernetes.io~empty-dir/memory && (exec setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $!)`))
	out := limpet(ctx, t, c, 1, "kill", "--grace", "1s")
	if want := "in use by process " + busy + " (sleep)"; !strings.Contains(out, want) || !strings.Contains(out, "memory") {
		t.Errorf("kill does not say %q:\n%s", want, out)
	}
	sh("kill " + busy)
	limpet(ctx, t, c, 0, "kill")
	limpet(ctx, t, c, 0, "kill") // nothing is left to do
	alive("kill")
	inKernel := func(line string) bool {
		return !strings.HasPrefix(line, "file ") && !strings.HasPrefix(line, "sysctl ")
	}
	compare(t, "kill", before, state(ctx, t, c), inKernel)

	// Kept data is the same cluster.
	startWithPod(ctx, t, c)
	limpet(ctx, t, c, 0, "uninstall", "--keep-data", "--yes", "--grace", "1s")
	sh("test -s /var/lib/limpet/server/db/state.db && test -e /etc/limpet/limpet.yaml && test ! -e /opt/shop/limpet && test ! -e /var/lib/kubelet")
	sh(asInstalled)
	startWithPod(ctx, t, c)
	if now := sh("limpet kubectl get node -o 'jsonpath={.items[0].metadata.uid}'"); now != identity {
		t.Errorf("with the data kept, the node is another one: %s, was %s", now, identity)
	}

	limpet(ctx, t, c, 0, "uninstall", "--yes", "--grace", "1s")
	alive("uninstall")
	compare(t, "uninstall", before, state(ctx, t, c), func(line string) bool {
		return !strings.HasPrefix(line, "file /opt/shop/ctr") && line != "file /opt/shop d 755 " // leads elsewhere: not limpet's
	})
	sh("test -L /opt/shop/ctr")
	limpet(ctx, t, c, 0, "uninstall", "--yes")
}

// TestKillWhenBroken: limpet killed, the shims too, half of its files gone.
func TestKillWhenBroken(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := ownCluster(t, 1)
	sh := func(script string) string { return c.mustIn(ctx, t, node1, "bash", "-c", script) }
	startPod(ctx, t, c)
	c.must(ctx, t, "stop", node1, "KILL")
	sh(`for p in /proc/[0-9]*; do [[ $(readlink $p/exe) != */containerd-shim-runc-v2 ]] || kill -9 ${p#/proc/}; done
rm -rf /var/lib/limpet/data /var/lib/limpet/created.json /run/limpet/containerd/io.containerd.runtime.v2.task/k8s.io/*/config.json`)
	out := limpet(ctx, t, c, 0, "kill", "--grace", "1s")
	if !strings.Contains(out, "Removing interface cni0") {
		t.Errorf("kill says:\n%s", out)
	}
	left := sh("awk '{print $5}' /proc/self/mountinfo | grep -E 'kubelet|limpet/|netns' ; ip -o link | grep -E 'cni0|flannel|veth'; ls -d /sys/fs/cgroup/*/kubepods /run/limpet 2>/dev/null; pgrep -x pause; true")
	if strings.TrimSpace(left) != "" {
		t.Errorf("left:\n%s", left)
	}
	limpet(ctx, t, c, 0, "kill")
}

// limpet runs a command in n1 that must end with that code, and returns what it says.
func limpet(ctx context.Context, t *testing.T, c *cluster, code int, args ...string) string {
	t.Helper()
	r := c.in(ctx, node1, append([]string{"limpet"}, args...)...)
	if r.code != code {
		t.Fatalf("limpet %s: exit %d, want %d: %s", strings.Join(args, " "), r.code, code, r.text())
	}
	t.Logf("limpet %s: %.1fs", strings.Join(args, " "), r.took.Seconds())
	return r.text()
}

func startWithPod(ctx context.Context, t *testing.T, c *cluster) {
	t.Helper()
	c.must(ctx, t, "start", node1)
	c.must(ctx, t, "wait", node1, "120")
	c.must(ctx, t, "load-images", node1, env.images+"/busybox-1.tar")
	startPod(ctx, t, c)
}

func startPod(ctx context.Context, t *testing.T, c *cluster) {
	t.Helper()
	if err := os.WriteFile(c.path(t, node1, "/srv/volumes.yaml"), []byte(volumesPod), 0o644); err != nil {
		t.Fatal(err)
	}
	script := "mkdir -p /srv/data/sub; for i in {1..60}; do limpet kubectl delete --ignore-not-found --now -f /srv/volumes.yaml && " + // what kept data remembers
		"limpet kubectl apply -f /srv/volumes.yaml && break; sleep 1; done; " +
		"limpet kubectl wait --for=condition=Ready pod/volumes --timeout=90s; rm /srv/volumes.yaml"
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	c.mustIn(ctx, t, node1, "bash", "-c", script)
	if out := c.mustIn(ctx, t, node1, "limpet", "kubectl", "exec", "volumes", "--", "cat", "/proc/mounts"); !strings.Contains(out, " /memory tmpfs") {
		t.Fatalf("the pod's mounts: %s", out)
	}
}

func state(ctx context.Context, t *testing.T, c *cluster) []string {
	t.Helper()
	lines := look(ctx, t, c, node1, nodeState)
	if len(lines) < 500 || !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "nft table ") }) {
		t.Fatalf("only %d lines describe the machine", len(lines))
	}
	return lines
}

// look returns the lines that a script prints on a node, sorted.
func look(ctx context.Context, t *testing.T, c *cluster, node, script string) []string {
	t.Helper()
	lines := strings.Split(c.mustIn(ctx, t, node, "bash", "-c", script), "\n")
	slices.Sort(lines)
	return slices.Compact(lines)
}

// compare fails if the states differ in lines that matter.
func compare(t *testing.T, after string, before, now []string, matters func(string) bool) {
	t.Helper()
	var diff []string
	for _, side := range []struct {
		sign      string
		has, from []string
	}{{"-", before, now}, {"+", now, before}} {
		for _, line := range side.has {
			if _, found := slices.BinarySearch(side.from, line); !found && matters(line) {
				diff = append(diff, side.sign+line)
			}
		}
	}
	if len(diff) > 0 {
		t.Errorf("after %s the machine differs from what it was before:\n%s", after, strings.Join(diff, "\n"))
		return
	}
	t.Logf("after %s: no difference in %d lines", after, len(before))
}
