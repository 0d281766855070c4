package payload

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inMountNamespace runs the calling test again in a process with mounts of its own,
// and reports true there: mounts made then are gone with the process.
func inMountNamespace(t *testing.T) bool {
	t.Helper()
	const mark = "LIMPET_TEST_MOUNT_NAMESPACE"
	if os.Getenv(mark) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mark+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) {
		t.Skip("this system allows no mount namespaces")
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("the test did not run in its namespace:\n%s", out)
	}
	return false
}

// tmpfs mounts a new file system with these options and returns where.
func tmpfs(t *testing.T, flags uintptr, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func remount(t *testing.T, dir string, flags uintptr) {
	t.Helper()
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|flags, ""); err != nil {
		t.Fatal(err)
	}
}

func TestFullFileSystem(t *testing.T) {
	t.Parallel()
	if !inMountNamespace(t) {
		return
	}
	a := archiveOf(t, small())
	for name, c := range map[string]struct {
		options string
		need    bool // found before anything is written
	}{
		"too small": {"size=64k", true},
		"no inodes": {"size=4m,nr_inodes=6", false},
	} {
		data := tmpfs(t, 0, c.options)
		_, err := unpack(t.Context(), a, data, quickCheck)
		var full *NoSpaceError
		if !errors.As(err, &full) || !errors.Is(err, unix.ENOSPC) || full.Need < 250_000 || (full.Free < full.Need) != c.need {
			t.Errorf("%s: %v", name, err)
		}
		assertNoLeftovers(t, data)
	}

	// A file system that fills up meanwhile: the old payload stays what it was.
	data := tmpfs(t, 0, "size=1m")
	if _, err := unpack(t.Context(), a, data, quickCheck); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(data, "ballast"), make([]byte, 600_000), 0o600); err != nil {
		t.Fatal(err)
	}
	newer := archiveOf(t, append(small(), entry{name: "new", mode: 0o755, data: "new"}))
	if _, err := unpack(t.Context(), newer, data, quickCheck); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("filled up: %v", err)
	}
	assertGood(t, a, data, small())
}

func TestReadOnlyFileSystem(t *testing.T) {
	t.Parallel()
	if !inMountNamespace(t) {
		return
	}
	a := archiveOf(t, small())
	data := tmpfs(t, 0, "")
	if _, err := unpack(t.Context(), a, data, quickCheck); err != nil {
		t.Fatal(err)
	}
	remount(t, data, unix.MS_RDONLY)
	if dir, err := unpack(t.Context(), a, data, quickCheck); err != nil || dir.Unpacked {
		t.Errorf("a payload that is in place needs no writing: %+v, %v", dir, err)
	}
	newer := archiveOf(t, append(small(), entry{name: "new", mode: 0o755, data: "new"}))
	_, err := unpack(t.Context(), newer, data, quickCheck)
	if !errors.Is(err, unix.EROFS) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("a new payload on a read-only file system: %v", err)
	}
	empty := tmpfs(t, unix.MS_RDONLY, "")
	if _, err := unpack(t.Context(), a, empty, quickCheck); !errors.Is(err, unix.EROFS) {
		t.Errorf("an empty read-only file system: %v", err)
	}
}

func TestNoExecMount(t *testing.T) {
	t.Parallel()
	if !inMountNamespace(t) {
		return
	}
	a := archiveOf(t, small())
	data := tmpfs(t, unix.MS_NOEXEC, "")
	if _, err := unpack(t.Context(), a, data, quickCheck); !errors.Is(err, ErrNoExec) || !strings.Contains(err.Error(), "remount") {
		t.Errorf("noexec: %v", err)
	}
	remount(t, data, 0)
	if _, err := unpack(t.Context(), a, data, quickCheck); err != nil {
		t.Errorf("after the remedy: %v", err)
	}
	remount(t, data, unix.MS_NOEXEC)
	if _, err := unpack(t.Context(), a, data, quickCheck); !errors.Is(err, ErrNoExec) {
		t.Errorf("noexec with a payload in place: %v", err)
	}
}
