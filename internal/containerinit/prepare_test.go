package containerinit

import (
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What Docker mounts with version 1, in the way of a privileged container.
const v1Mounts = `700 600 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b
701 700 0:51 / /sys rw,nosuid - sysfs sysfs rw
702 701 0:52 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw,mode=755
703 702 0:30 /docker/abc /sys/fs/cgroup/systemd rw,nosuid master:11 - cgroup cgroup rw,xattr,release_agent=/lib/systemd/a,name=systemd
704 702 0:31 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw,nosuid master:12 - cgroup cgroup rw,cpu,cpuacct
705 702 0:32 /docker/abc /sys/fs/cgroup/memory rw,nosuid master:13 - cgroup cgroup rw,memory
706 702 0:33 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw
`

const v2Mounts = `700 600 0:50 / / rw,relatime - overlay overlay rw
701 700 0:51 / /sys rw,nosuid - sysfs sysfs rw
702 701 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate
`

func TestCgroupMounts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []mount
	}{
		"version 1": {v1Mounts, []mount{
			{"/sys/fs/cgroup/systemd", "cgroup", []string{"none", "name=systemd"}},
			{"/sys/fs/cgroup/cpu,cpuacct", "cgroup", []string{"cpu", "cpuacct"}},
			{"/sys/fs/cgroup/memory", "cgroup", []string{"memory"}},
			{"/sys/fs/cgroup/unified", "cgroup2", []string{}},
		}},
		"version 2":     {v2Mounts, []mount{{"/sys/fs/cgroup", "cgroup2", []string{"nsdelegate"}}}},
		"2 over 1":      {v1Mounts + v2Mounts, []mount{{"/sys/fs/cgroup", "cgroup2", []string{"nsdelegate"}}}},
		"over the same": {v2Mounts + v2Mounts, []mount{{"/sys/fs/cgroup", "cgroup2", []string{"nsdelegate"}}}},
		"none":          {"700 600 0:50 / / rw - overlay overlay rw\nnonsense\n", nil},
	} {
		var got []mount
		for _, m := range cgroupMounts(parseMounts(c.text)) {
			m.options = append([]string{}, v1Options(m.options)...)
			got = append(got, m)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestAtRoot(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"0::/\n":                               true,
		"0::/system.slice/docker-abc.scope\n":  false,
		"3:memory:/\n2:name=systemd:/\n0::/\n": true,
		"3:memory:/docker/abc\n0::/\n":         false,
		"0::/../other\n":                       false,
		"":                                     true,
	} {
		if got := atRoot(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// TestClearRun: what is left of a former run goes, mounts and what is in them stays.
func TestClearRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := filepath.Join(dir, "run")
	mountinfo := filepath.Join(dir, "mountinfo")
	fill := func(mounts string) {
		t.Helper()
		for _, path := range []string{"limpet/state", "secrets/kubernetes/token", "lock"} {
			file := filepath.Join(run, path)
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(mountinfo, []byte(mounts), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := clearRun(run, mountinfo); err != nil {
			t.Fatal(err)
		}
	}
	names := func() string {
		t.Helper()
		entries, err := os.ReadDir(run)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return strings.Join(all, " ")
	}
	line := func(point string) string { return "700 600 0:50 / " + point + " rw - tmpfs tmpfs rw\n" }
	fill(line("/") + line(run))
	if got := names(); got != "limpet lock secrets" {
		t.Errorf("of a mounted directory is left: %s", got)
	}
	fill(line("/") + line(run+"/secrets/kubernetes"))
	if got := names(); got != "secrets" {
		t.Errorf("left: %s", got)
	}
	fill(line("/"))
	if got := names(); got != "" {
		t.Errorf("left: %s", got)
	}
}

func TestMachineID(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "machine-id")
	var seen []string
	for range 2 {
		if err := machineID(file); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(file)
		if err != nil || len(data) != 33 {
			t.Fatalf("got %q, %v", data, err)
		}
		seen = append(seen, string(data))
	}
	if seen[0] != seen[1] {
		t.Errorf("an identity was replaced: %q", seen)
	}
}

// TestDelegate moves a real process in a hierarchy of version 2, if the machine has one.
func TestDelegate(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var root string
	for _, m := range cgroupMounts(parseMounts(string(data))) {
		if m.fsType == "cgroup2" {
			root = filepath.Join(m.point, "limpet-test-"+strconv.Itoa(os.Getpid()))
		}
	}
	if root == "" || os.Mkdir(root, 0o755) != nil {
		t.Skip("no control groups of version 2 to write to")
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for _, dir := range []string{filepath.Join(root, ownGroup), root} {
			err := os.Remove(dir)
			for range 100 { // busy for a moment after its last process
				if err == nil {
					break
				}
				time.Sleep(20 * time.Millisecond)
				err = os.Remove(dir)
			}
			if err != nil {
				t.Error(err)
			}
		}
	})
	pid := strconv.Itoa(cmd.Process.Pid)
	if err := os.WriteFile(filepath.Join(root, "cgroup.procs"), []byte(pid), 0o600); err != nil {
		t.Skip("processes cannot be moved here: ", err)
	}
	for range 2 { // a container that is started again
		if err := delegate(root, slog.New(slog.NewTextHandler(io.Discard, nil))); err != nil {
			t.Fatal(err)
		}
	}
	inner, err := os.ReadFile(filepath.Join(root, ownGroup, "cgroup.procs"))
	if err != nil || strings.TrimSpace(string(inner)) != pid {
		t.Errorf("in the inner group: %q, %v", inner, err)
	}
	have, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		t.Fatal(err)
	}
	given, err := os.ReadFile(filepath.Join(root, "cgroup.subtree_control"))
	if err != nil || string(given) != string(have) {
		t.Errorf("of the controllers %q these are given: %q, %v", have, given, err)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add(v1Mounts)
	f.Add("700 600 0:50 / / rw - overlay")
	f.Fuzz(func(t *testing.T, text string) {
		for _, m := range cgroupMounts(parseMounts(text)) {
			if !strings.HasPrefix(m.point, cgroupRoot) {
				t.Errorf("%q is no mount of a control group", m.point)
			}
			v1Options(m.options)
		}
	})
}
