package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// jsonText is a value as one line of JSON, for messages.
func jsonText(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// TestKubectl runs the binary's kubectl on this machine.
func TestKubectl(t *testing.T) {
	s := sharedSpace(t, 3*time.Minute)
	s.start(pod("box", shellSpec("echo one; echo two >&2; trap exit TERM; while :; do sleep 3600 & wait; done")))
	s.create(pod("web", httpdSpec()))

	t.Run("exec", func(t *testing.T) {
		s := s.with(t)
		if got := s.kubectl("exec", "box", "--", "sh", "-c", "echo out; hostname"); got != "out\nbox\n" {
			t.Errorf("output %q", got)
		}
		r := s.run(s.ctx, "kubectl", "-n", s.name, "exec", "box", "--", "sh", "-c", "exit 7")
		if r.code != 7 {
			t.Errorf("exit status %d, want the command's 7: %s", r.code, r.stderr)
		}
		cmd := s.kubectlCommand(s.ctx, "exec", "-i", "box", "--", "tr", "a-z", "A-Z")
		cmd.Stdin = strings.NewReader("through standard input\n")
		if out, err := cmd.Output(); err != nil || string(out) != "THROUGH STANDARD INPUT\n" {
			t.Errorf("stdin: %q, %v", out, err)
		}
	})
	t.Run("logs", func(t *testing.T) {
		s := s.with(t)
		got := s.kubectl("logs", "box")
		if !strings.Contains(got, "one\n") || !strings.Contains(got, "two\n") {
			t.Errorf("log %q", got)
		}
		if got := s.kubectl("logs", "box", "--tail=1"); strings.Count(got, "\n") != 1 {
			t.Errorf("tail %q", got)
		}
	})
	t.Run("logs -f", func(t *testing.T) { followLog(t, s.with(t)) })
	t.Run("cp", func(t *testing.T) { copyBothWays(t, s.with(t)) })
	t.Run("port-forward", func(t *testing.T) { forwardPort(t, s.with(t)) })
	t.Run("debug", func(t *testing.T) {
		s := s.with(t)
		s.kubectl("debug", "pod/box", "--image="+imageBusybox, "--image-pull-policy=Never", "--target=main", "--container=probe", "--profile=general", "--",
			"sh", "-c", "grep -q sh /proc/1/comm && echo sees the container")
		await(s.ctx, t, s.pods(), "box", func(p *corev1.Pod) string {
			for _, c := range p.Status.EphemeralContainerStatuses {
				if c.State.Terminated != nil {
					return ""
				}
			}
			return jsonText(p.Status.EphemeralContainerStatuses)
		})
		if got := s.log("box", &corev1.PodLogOptions{Container: "probe"}); got != "sees the container\n" {
			t.Errorf("the ephemeral container says %q", got)
		}
	})
	t.Run("apply and delete", func(t *testing.T) {
		s := s.with(t)
		file := filepath.Join(t.TempDir(), "cm.yaml")
		text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\ndata: {k: v}\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s.kubectl("apply", "-f", file)
		if got := s.kubectl("get", "cm", "applied", "-o", "jsonpath={.data.k}"); got != "v" {
			t.Errorf("data %q", got)
		}
		s.kubectl("delete", "-f", file)
		if _, err := s.client.CoreV1().ConfigMaps(s.name).Get(s.ctx, "applied", metav1.GetOptions{}); err == nil {
			t.Error("it is still there")
		}
	})
}

// kubectlCommand is kubectl for what needs streams.
func (s *space) kubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(env.repo, "scripts", "cluster"), append([]string{"kubectl", "-n", s.name}, args...)...)
	cmd.Env = s.environ()
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// followLog reads lines that are written after it began.
func followLog(t *testing.T, s *space) {
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	cmd := s.kubectlCommand(ctx, "logs", "-f", "box")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	written := false
	for lines.Scan() {
		switch {
		case !written:
			s.sh("box", "echo written later >/proc/1/fd/1")
			written = true
		case lines.Text() == "written later":
			cancel()
			_ = cmd.Wait() // killed
			return
		}
	}
	t.Errorf("the line did not come: %v, %v", cmd.Wait(), lines.Err())
}

// copyBothWays copies a file of 3 MiB into the pod and back, and a directory out of it.
func copyBothWays(t *testing.T, s *space) {
	dir := t.TempDir()
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	if err := os.WriteFile(there, data, 0o600); err != nil {
		t.Fatal(err)
	}
	s.kubectl("cp", there, "box:/tmp/there")
	s.kubectl("cp", "box:/tmp/there", back)
	got, err := os.ReadFile(back)
	if err != nil || string(got) != string(data) {
		t.Errorf("came back %d bytes (%v), want the same %d", len(got), err, len(data))
	}
	s.sh("box", "mkdir -p /tmp/d/e; echo deep >/tmp/d/e/f")
	s.kubectl("cp", "box:/tmp/d", filepath.Join(dir, "d"))
	if got, err := os.ReadFile(filepath.Join(dir, "d", "e", "f")); string(got) != "deep\n" {
		t.Errorf("directory: %q, %v", got, err)
	}
}

// forwardPort reaches the pod through a port of this machine's loopback.
func forwardPort(t *testing.T, s *space) {
	await(s.ctx, t, s.pods(), "web", podReady)
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	cmd := s.kubectlCommand(ctx, "port-forward", "pod/web", ":"+httpPortText)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("port-forward says %q", line)
	}
	for range 3 {
		got, err := get(ctx, http.DefaultClient, "http://127.0.0.1:"+m[1]+"/version")
		if err != nil || got != "1\n" {
			t.Errorf("answer %q, %v", got, err)
		}
	}
}

// TestLogsOfManyLines reads a log that is larger than a pipe or a buffer, complete and in order.
func TestLogsOfManyLines(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	p, log := s.finish(once("box", "seq 20000"))
	lines := strings.Fields(log)
	if p.Status.Phase != corev1.PodSucceeded || len(lines) != 20000 || lines[0] != "1" || lines[19999] != "20000" {
		t.Errorf("phase %s, %d lines", p.Status.Phase, len(lines))
	}
}
