package payload

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// oldVersions unpacks payloads of n versions and returns them, the last one current.
func oldVersions(t *testing.T, data string, n int) []archive {
	t.Helper()
	var all []archive
	for i := range n {
		a := archiveOf(t, append(small(), entry{name: "version", mode: 0o644, data: strings.Repeat("x", i)}))
		if _, err := unpack(t.Context(), a, data, quickCheck); err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	return all
}

// Not parallel, for the reason told in embedded_test.go.
func TestCollectKeepsWhatIsUsed(t *testing.T) {
	data := t.TempDir()
	store := filepath.Join(data, storeName)
	v := oldVersions(t, data, 5)
	unused, executed, mapped, kept, current := v[0], v[1], v[2], v[3], v[4]
	stop := execute(t, filepath.Join(store, executed.sum, "bin"))
	unmap := mapFile(t, filepath.Join(store, mapped.sum, "bin", "runc"))

	removed, err := collect(t.Context(), store, kept.sum, procDir)
	if err != nil || !slices.Equal(removed, []string{unused.sum}) {
		t.Fatalf("removed %v, %v; the unused is %s", removed, err, unused.sum)
	}
	assertGood(t, current, data, small())
	for what, a := range map[string]archive{"executed": executed, "mapped": mapped, "kept": kept} {
		if err := quickCheck(t.Context(), filepath.Join(store, a.sum), a.manifestSum); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}

	stop()
	unmap()
	removed, err = collect(t.Context(), store, kept.sum, procDir)
	slices.Sort(removed)
	want := []string{executed.sum, mapped.sum}
	slices.Sort(want)
	if err != nil || !slices.Equal(removed, want) {
		t.Errorf("nobody uses them any more: removed %v, %v", removed, err)
	}
	assertGood(t, current, data, small())
}

// execute runs a program from dir until the returned function is called.
func execute(t *testing.T, dir string) (stop func()) {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.run", "^TestHelperWaits$", "-test.v")
	cmd.Env = append(os.Environ(), waitMark+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil { // returns once the child has executed the program
		t.Fatal(err)
	}
	return func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("program of the old payload: %v", err)
		}
	}
}

const waitMark = "LIMPET_TEST_WAIT"

// TestHelperWaits is the program that execute runs: it ends with its standard input.
func TestHelperWaits(t *testing.T) {
	if os.Getenv(waitMark) == "" {
		t.Skip("only as a program of another test")
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		t.Fatal(err)
	}
}

func mapFile(t *testing.T, path string) (unmap func()) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	mem, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Munmap(mem); err != nil {
			t.Error(err)
		}
	}
}

func TestCollectKeepsMountPoints(t *testing.T) {
	t.Parallel()
	if !inMountNamespace(t) {
		return
	}
	data := t.TempDir()
	store := filepath.Join(data, storeName)
	v := oldVersions(t, data, 2)
	mountPoint := filepath.Join(store, v[0].sum, "lib")
	if err := unix.Mount("tmpfs", mountPoint, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if removed, err := collect(t.Context(), store, v[1].sum, procDir); err != nil || len(removed) != 0 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if err := unix.Unmount(mountPoint, 0); err != nil {
		t.Fatal(err)
	}
	if removed, err := collect(t.Context(), store, v[1].sum, procDir); err != nil || len(removed) != 1 {
		t.Errorf("after unmounting: removed %v, %v", removed, err)
	}
}

func TestCollectLeavesOtherThings(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	store := filepath.Join(data, storeName)
	if removed, err := collect(t.Context(), store, "", procDir); err != nil || removed != nil {
		t.Errorf("without a store: %v, %v", removed, err)
	}
	v := oldVersions(t, data, 2)
	others := []string{"notes", strings.Repeat("A", 64), "abc"}
	for _, name := range others {
		if err := os.Mkdir(filepath.Join(store, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if removed, err := collect(t.Context(), store, v[1].sum, procDir); err != nil || !slices.Equal(removed, []string{v[0].sum}) {
		t.Errorf("%v, %v", removed, err)
	}
	for _, name := range others {
		if _, err := os.Stat(filepath.Join(store, name)); err != nil {
			t.Error(err)
		}
	}
}

// Without a view of the processes nothing is removed.
func TestCollectNeedsProc(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	store := filepath.Join(data, storeName)
	v := oldVersions(t, data, 2)
	if removed, err := collect(t.Context(), store, v[1].sum, t.TempDir()); !errors.Is(err, os.ErrNotExist) || len(removed) != 0 {
		t.Errorf("%v, %v", removed, err)
	}
	if err := quickCheck(context.Background(), filepath.Join(store, v[0].sum), v[0].manifestSum); err != nil {
		t.Error(err)
	}
}

// A process that may not be inspected still counts by its command line.
func TestHiddenProcessesCountByCommandLine(t *testing.T) {
	t.Parallel()
	proc := t.TempDir()
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(proc, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("self/mountinfo", "1 0 0:1 / / rw - tmpfs tmpfs rw\n")
	write("7/cmdline", "/var/lib/limpet/data/"+a+"/bin/containerd-shim-runc-v2\x00-namespace\x00k8s.io\x00")
	write("8/cmdline", "sleep\x00")
	used, err := inUse(t.Context(), proc, []string{a, b})
	if err != nil || !used[a] || used[b] {
		t.Errorf("%v, %v", used, err)
	}
}
