package mounter

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

func TestPlanOf(t *testing.T) {
	t.Parallel()
	for options, want := range map[string]plan{
		"":                            {},
		"defaults rw":                 {},
		"bind":                        {bindFlags: unix.MS_BIND},
		"rbind,ro":                    {bindFlags: unix.MS_BIND | unix.MS_REC, flags: unix.MS_RDONLY},
		"size=64Mi nosuid,noexec":     {flags: unix.MS_NOSUID | unix.MS_NOEXEC, data: "size=64Mi"},
		"remount bind ro":             {bindFlags: unix.MS_BIND, flags: unix.MS_RDONLY, remount: true},
		"rshared private":             {propagation: []uintptr{unix.MS_SHARED | unix.MS_REC, unix.MS_PRIVATE}},
		"relatime ro uid=7,mode=0755": {flags: unix.MS_RELATIME | unix.MS_RDONLY, data: "uid=7,mode=0755"},
	} {
		if got := planOf(strings.Fields(options)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v", options, got)
		}
	}
}

func TestChoose(t *testing.T) {
	upstream := mount.NewFakeMounter(nil)
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if m, ok := Choose(upstream).(*Mounter); !ok || m.Interface != upstream {
		t.Error("without the programs upstream's mounter is used")
	}
	for _, name := range []string{"mount", "umount"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if Choose(upstream) != upstream {
		t.Error("with the programs upstream's mounter is not used")
	}
}

// TestMount mounts really, in a mount namespace of one thread, which ends with it.
func TestMount(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = mountThere(dir)
		} else {
			err = errors.Join(errSkip, err)
		}
		done <- err
	}()
	switch err := <-done; {
	case errors.Is(err, errSkip):
		t.Skip(err)
	case err != nil:
		t.Error(err)
	}
}

var errSkip = errors.New("no mount namespace is to be had")

func mountThere(dir string) error {
	m := &Mounter{}
	tmp, bound := filepath.Join(dir, "tmp"), filepath.Join(dir, "bound")
	if err := errors.Join(os.Mkdir(tmp, 0o700), os.Mkdir(bound, 0o700)); err != nil {
		return err
	}
	if err := m.Mount("tmpfs", tmp, "tmpfs", []string{"size=1048576", "nosuid"}); err != nil {
		return err
	}
	var s unix.Statfs_t
	if err := unix.Statfs(tmp, &s); err != nil || s.Type != unix.TMPFS_MAGIC || uint64(s.Flags)&unix.ST_NOSUID == 0 || s.Blocks*uint64(s.Bsize) != 1<<20 {
		return errors.Join(err, errors.New("this is not the tmpfs that was asked for"))
	}
	file := filepath.Join(bound, "file")
	if err := m.Mount(tmp, bound, "", []string{"bind", "ro"}); err != nil {
		return err
	}
	if err := os.WriteFile(file, nil, 0o600); !errors.Is(err, unix.EROFS) {
		return errors.Join(err, errors.New("a bind mount that is read-only can be written"))
	}
	if err := unix.Statfs(bound, &s); err != nil || uint64(s.Flags)&unix.ST_NOSUID == 0 {
		return errors.Join(err, errors.New("the bind mount lost nosuid"))
	}
	if err := os.WriteFile(filepath.Join(tmp, "file"), nil, 0o600); err != nil {
		return err
	}
	if _, err := os.Stat(file); err != nil {
		return err
	}
	if err := errors.Join(m.Unmount(bound), m.Unmount(tmp)); err != nil {
		return err
	}
	if err := m.Unmount(tmp); !errors.Is(err, unix.EINVAL) {
		return errors.Join(err, errors.New("what is not mounted can be unmounted"))
	}
	err := m.MountSensitive("tmpfs", tmp, "tmpfs", nil, []string{"size=secret"})
	if err == nil || strings.Contains(err.Error(), "secret") {
		return errors.Join(err, errors.New("a bad option is taken, or a secret one shown"))
	}
	return nil
}
