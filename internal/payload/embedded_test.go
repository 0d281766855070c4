package payload

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	imagearchive "github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/plugins/content/local"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// The tests of this file run the real payload, as it is embedded. They are not
// parallel: a process that another test forks meanwhile would hold a just written
// program open for a moment, and executing it would fail with ETXTBSY.

func unpackEmbedded(t *testing.T) Dir {
	t.Helper()
	dir, err := Unpack(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// output runs a program without any environment.
func output(t *testing.T, attr *syscall.SysProcAttr, stdin, name string, args ...string) string {
	t.Helper()
	cmd := &exec.Cmd{Path: name, Args: append([]string{name}, args...), Env: []string{}, Stdin: strings.NewReader(stdin), SysProcAttr: attr}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces")
	}
}

func TestEmbeddedToolsTellTheirVersions(t *testing.T) {
	dir := unpackEmbedded(t)
	if _, err := Repair(t.Context(), filepath.Dir(filepath.Dir(dir.Root))); err != nil {
		t.Error(err)
	}
	for tool, c := range map[string]struct{ flag, want string }{
		"runc":                    {"--version", "libseccomp: "},
		"containerd-shim-runc-v2": {"-v", "Version:  v2."},
	} {
		if out := output(t, nil, "", dir.Tool(tool), c.flag); !strings.Contains(out, c.want) {
			t.Errorf("%s: %s", tool, out)
		}
	}
	for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap", "bandwidth"} {
		if out := output(t, nil, "", dir.Tool(plugin)); !strings.Contains(out, "CNI "+plugin+" plugin v1.") {
			t.Errorf("%s: %s", plugin, out)
		}
	}
}

func TestEmbeddedNftWorksInAnEmptyRoot(t *testing.T) {
	needRoot(t)
	dir := unpackEmbedded(t)
	const rules = "add table inet limpet\nadd chain inet limpet c { type filter hook input priority 0; }\n" +
		"add rule inet limpet c tcp dport 80 counter accept\nlist chain inet limpet c\n"
	for name, attr := range map[string]*syscall.SysProcAttr{
		"with /proc":    {Cloneflags: unix.CLONE_NEWNET},
		"in empty root": {Cloneflags: unix.CLONE_NEWNET, Chroot: dir.Root},
	} {
		tool := dir.Tool("nft")
		if attr.Chroot != "" {
			tool = "/bin/nft"
		}
		if out := output(t, attr, rules, tool, "-f", "-"); !strings.Contains(out, "chain c {") {
			t.Errorf("%s: %s", name, out)
		}
	}
	// Through a link elsewhere on PATH, too.
	link := filepath.Join(t.TempDir(), "nft")
	if err := os.Symlink(dir.Tool("nft"), link); err != nil {
		t.Fatal(err)
	}
	if out := output(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}, "", link, "-j", "list", "ruleset"); !strings.Contains(out, `"metainfo"`) {
		t.Errorf("through a link: %s", out)
	}
}

// containerd's own importer must find the image under the name that pods use.
func TestEmbeddedPauseImageImports(t *testing.T) {
	dir := unpackEmbedded(t)
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(dir.PauseArchive())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	desc, err := imagearchive.ImportIndex(t.Context(), store, f)
	if err != nil {
		t.Fatal(err)
	}
	if desc.MediaType != ocispec.MediaTypeImageIndex {
		t.Errorf("media type %s", desc.MediaType)
	}
	reader, err := store.ReaderAt(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reader.Close() }()
	index := make([]byte, desc.Size)
	if _, err := reader.ReadAt(index, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if !bytes.Contains(index, []byte(`"io.containerd.image.name":"`+PauseReference+`"`)) {
		t.Errorf("index: %s", index)
	}
}

// pauseProgram extracts the program from the image.
func pauseProgram(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(unpackEmbedded(t).PauseArchive())
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("no layer with pause: %v", err)
		}
		if !strings.HasPrefix(h.Name, "blobs/") {
			continue
		}
		layer := tar.NewReader(r)
		if h, err := layer.Next(); err != nil || h.Name != "pause" {
			continue
		}
		path := filepath.Join(t.TempDir(), "pause")
		program, err := io.ReadAll(layer)
		if err == nil {
			err = os.WriteFile(path, program, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
}

func TestEmbeddedPauseAsProcessOne(t *testing.T) {
	needRoot(t)
	pause := pauseProgram(t)
	for _, sig := range []syscall.Signal{unix.SIGTERM, unix.SIGINT} {
		// The orphan ends when its standard input does; pause is then to reap it.
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", `exec 3<&0; { read x <&3; } & exec "$0" 3<&-`, pause)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pid := cmd.Process.Pid
		task := "/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(pid) + "/children"
		until(t, "the orphan is there", func() bool { return isPause(pid, pause) && readFile(t, task) != "" })
		_ = in.Close()
		until(t, "the orphan is reaped", func() bool { return readFile(t, task) == "" })

		if err := cmd.Process.Signal(unix.SIGHUP); err != nil { // ignored, as process 1 does
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after %v: %v", sig, err)
		}
	}
}

func isPause(pid int, program string) bool {
	exe, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
	return err == nil && exe == program
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// until waits for something of another process that sends no event.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within 10 s: %s", what)
		case <-tick.C:
		}
	}
}
