package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestInsideIdle measures a containerd with ten pods and nothing to do, with our
// settings and with upstream's defaults. It takes LIMPET_TEST_IDLE (a duration)
// for each and is skipped without:
//
//	LIMPET_TEST_IDLE=30s go test -v -run TestNode ./agent/containerd
func TestInsideIdle(t *testing.T) {
	dir := inside(t)
	period, err := time.ParseDuration(os.Getenv("LIMPET_TEST_IDLE"))
	if err != nil {
		t.Skip("only on request")
	}
	upstream := baseTemplate
	for _, setting := range []string{"pause_threshold", "deletion_threshold", "startup_delay", "stats_collect_period", "stats_retention_period", "disabled_plugins"} {
		var lines []string
		for line := range strings.Lines(upstream) {
			if !strings.HasPrefix(strings.TrimSpace(line), setting) {
				lines = append(lines, line)
			}
		}
		upstream = strings.Join(lines, "")
	}
	for _, tc := range []struct{ name, template string }{{"ours", ""}, {"upstream", upstream}} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t, dir)
			if tc.template != "" {
				writeFile(t, filepath.Join(n.opts.DataDir, "agent", "etc", "containerd", templateFile), []byte(tc.template))
			}
			n.start()
			for i := range 10 {
				podID, pod := n.pod(fmt.Sprintf("pod-%d", i))
				n.container(podID, pod, DefaultPauseImage)
			}
			time.Sleep(40 * time.Second) // until the first garbage collection is over
			before := measure(t, n)
			time.Sleep(period)
			after := measure(t, n)
			s := period.Seconds()
			t.Logf("%s: %.1f wake-ups/s, %.2f %% CPU, %.0f B/s written", tc.name,
				(after.switches-before.switches)/s, (after.cpu-before.cpu)/s*100, (after.written-before.written)/s)
			logMemory(t, n)
			n.stop(unix.SIGTERM)
		})
	}
}

type usage struct{ switches, cpu, written float64 }

// measure adds up the voluntary context switches of all threads, the CPU seconds
// and the bytes written of a node.
func measure(t *testing.T, n *node) usage {
	t.Helper()
	var u usage
	proc := "/proc/" + n.pid()
	tasks, err := filepath.Glob(proc + "/task/*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		u.switches += valueAfter(t, path, "voluntary_ctxt_switches:")
	}
	u.written = valueAfter(t, proc+"/io", "write_bytes:")
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	for _, f := range fields[11:13] { // utime and stime in hundredths of a second
		ticks, err := strconv.ParseFloat(f, 64)
		if err != nil {
			t.Fatal(err)
		}
		u.cpu += ticks / 100
	}
	return u
}

func valueAfter(t *testing.T, path, key string) float64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, key); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("%s is not in %s", key, path)
	return 0
}
