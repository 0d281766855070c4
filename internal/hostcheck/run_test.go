package hostcheck

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestText(t *testing.T) {
	t.Parallel()
	r := Report{Mode: "agent", Findings: []Finding{
		{Section: "kernel", Name: "version", Verdict: OK, Detail: "6.1"},
		{Section: "kernel", Name: "vxlan", Verdict: Warn, Detail: "missing", Remedy: "load it"},
		{Section: "network", Name: "ports", Verdict: Fail, Detail: "taken", Remedy: "free them"},
	}}
	want := `kernel
  ok    version  6.1
  warn  vxlan    missing
               → load it

network
  FAIL  ports    taken
               → free them

This machine cannot run limpet agent: 1 requirement is not met (1 warning).
`
	if got := r.text(false); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := r.text(true); !strings.Contains(got, "\x1b[1;31mFAIL\x1b[0m") {
		t.Errorf("no color in %q", got)
	}
}

// TestRunHere runs everything on the machine of the test: whatever the verdict, it
// must agree with itself and leave nothing behind.
func TestRunHere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	failed, err := Run(context.Background(), Options{DataDir: filepath.Join(dir, "not", "there"), Out: &out, JSON: true})
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.Failed != failed || r.Mode != "server" || len(r.Findings) < 20 {
		t.Errorf("report %+v", r)
	}
	for _, f := range r.Findings {
		if (f.Verdict == Fail || f.Verdict == Warn) == (f.Remedy == "") {
			t.Errorf("verdict and remedy do not fit: %+v", f)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left in the directory: %v %v", left, err)
	}
	if after, err := os.ReadFile("/proc/self/mountinfo"); err != nil || !bytes.Equal(before, after) {
		t.Errorf("mounts changed: %v\n%s", err, after)
	}
	t.Log(r.text(false))
}

func TestRunRefusesUnknownMode(t *testing.T) {
	t.Parallel()
	if _, err := Run(context.Background(), Options{Mode: "leader"}); err == nil {
		t.Error("no error")
	}
}
