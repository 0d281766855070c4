package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// podMaxPids is the shared cluster's --kubelet-arg pod-max-pids.
const podMaxPids = 128

// TestMemoryLimit takes more memory than allowed.
func TestMemoryLimit(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	spec := httpdSpec()
	spec.RestartPolicy = corev1.RestartPolicyNever
	limits(&spec.Containers[0], map[corev1.ResourceName]string{corev1.ResourceMemory: "64Mi"})
	p := s.start(pod("web", spec))
	here := podPlace(t, p)
	address := p.Status.PodIP + ":" + httpPortText
	if got := here.mustFetch(s.ctx, t, address, "/alloc?mb=16"); got != "holding 16 MiB" {
		t.Fatalf("within the limit: %q", got)
	}
	if got, err := here.fetch(s.ctx, address, "/alloc?mb=200"); err == nil {
		t.Errorf("200 MiB in a container of 64 MiB: %q", got)
	}
	p = await(s.ctx, t, s.pods(), "web", podEnded)
	end := p.Status.ContainerStatuses[0].State.Terminated
	if end == nil || end.Reason != "OOMKilled" || end.ExitCode != 137 {
		t.Errorf("the container ended with %s, want OOMKilled and exit code 137", jsonText(end))
	}
}

// TestCPULimit keeps four goroutines busy in a fifth of a core.
func TestCPULimit(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	spec := httpdSpec()
	limits(&spec.Containers[0], map[corev1.ResourceName]string{corev1.ResourceCPU: "200m"})
	p := s.start(pod("web", spec))
	here := podPlace(t, p)
	pid := processOf(t, p, "main")
	before, start := cpuTime(t, pid), time.Now()
	here.mustFetch(s.ctx, t, p.Status.PodIP+":"+httpPortText, "/burn?ms=6000&n=4")
	used, took := cpuTime(t, pid)-before, time.Since(start)
	cores := used.Seconds() / took.Seconds()
	t.Logf("used %s of CPU in %s: %.2f cores", used, took.Round(time.Millisecond), cores)
	if cores > 0.35 {
		t.Errorf("%.2f cores used, the limit is 0.2", cores)
	}
	if cores < 0.05 {
		t.Errorf("%.2f cores used: the load did not run, the limit was not tested", cores)
	}
}

// cpuTime is what the process used so far (proc_pid_stat(5), in hundredths of a second).
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	var ticks int64
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// TestPidLimit forks until it may not; the kubelet's argument decides when.
func TestPidLimit(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	p, log := s.finish(once("box", fmt.Sprintf(`
		cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null
		for i in $(seq %d); do sleep 30 & echo started; done; echo no limit`, podMaxPids+50)))
	started := strings.Count(log, "started\n")
	if p.Status.Phase != corev1.PodFailed || strings.Contains(log, "no limit") || started == 0 || started >= podMaxPids {
		t.Errorf("phase %s after %d processes, want Failed before %d: %.300s", p.Status.Phase, started, podMaxPids, log)
	}
}

// TestUserAndReadOnlyRoot checks what a security context forbids.
func TestUserAndReadOnlyRoot(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	box := once("box", "id -u; touch /x 2>/dev/null || echo no write; grep NoNewPrivs /proc/self/status; grep CapEff /proc/self/status; grep Seccomp: /proc/self/status")
	box.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		RunAsUser: ptr(int64(4321)), ReadOnlyRootFilesystem: ptr(true), AllowPrivilegeEscalation: ptr(false),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	_, log := s.finish(box)
	if got, want := strings.Fields(log), strings.Fields("4321 no write NoNewPrivs: 1 CapEff: 0000000000000000 Seccomp: 2"); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("inside: %q, want %q", got, want)
	}
}

// TestUserNamespace maps root of the pod to somebody else on the node.
func TestUserNamespace(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	box := pod("box", shellSpec(""))
	box.Spec.HostUsers = ptr(false)
	p := s.start(box)
	if got := s.sh("box", "id -u; head -1 /proc/self/uid_map | tr -s ' '"); strings.HasPrefix(got, "0\n 0 0 ") || !strings.HasPrefix(got, "0\n 0 ") {
		t.Errorf("inside: %q, want root mapped to another user", got)
	}
	st, err := os.Stat(fmt.Sprintf("/proc/%d", processOf(t, p, "main")))
	s.ok(err)
	if uid := st.Sys().(*syscall.Stat_t).Uid; uid < 65536 {
		t.Errorf("outside the process is user %d's", uid)
	}
}
