package containerd

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const appImage = "example.com/app:1"

// TestInsidePods runs a pod and kills and stops containerd under it.
func TestInsidePods(t *testing.T) {
	dir := inside(t)
	n := newNode(t, dir)
	archive := filepath.Join(n.opts.DataDir, "agent", "images", "app.tar.zst")
	writeFile(t, archive, zstdOf(t, dockerArchive(t, testImage(t, dir, "app"), appImage)))
	n.start()
	t.Logf("first start: %v", n.startup)
	for _, socket := range []string{SocketPath(n.opts.RunDir), SocketPath(n.opts.RunDir) + ".ttrpc"} {
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("socket %s: %v, %v", socket, info.Mode(), err)
		}
	}
	if img := n.image(DefaultPauseImage); img == nil || !img.GetPinned() {
		t.Fatalf("pause image: %v", img)
	}
	n.eventually("image imported", func() bool { return n.image(appImage) != nil })

	podID, pod := n.pod("one")
	id := n.container(podID, pod, appImage)
	before := n.status(id)
	if before.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Fatalf("container is %v", before.GetState())
	}
	for _, sig := range []os.Signal{unix.SIGKILL, unix.SIGTERM} {
		n.stop(sig)
		n.start()
		t.Logf("start after %v: %v", sig, n.startup)
		after := n.status(id)
		if after.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING || after.GetStartedAt() != before.GetStartedAt() {
			t.Fatalf("after %v the container is %v, started %v", sig, after.GetState(), after.GetStartedAt())
		}
	}
	logMemory(t, n)
	if _, err := n.runtime().StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: podID}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.runtime().RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: podID}); err != nil {
		t.Fatal(err)
	}
	n.stop(unix.SIGTERM)
	if warnings := problems(n.log()); len(warnings) > 0 {
		t.Errorf("warnings in the log:\n%s", strings.Join(warnings, "\n"))
	}
}

// problems are the log's lines that an operator would look at.
func problems(log string) []string {
	var lines []string
	for line := range strings.Lines(log) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// logMemory prints what containerd needs when it has nothing to do.
func logMemory(t *testing.T, n *node) {
	t.Helper()
	b, err := os.ReadFile("/proc/" + n.pid() + "/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "Rss:") || strings.HasPrefix(line, "Pss:") || strings.HasPrefix(line, "Anonymous:") {
			t.Log(strings.Join(strings.Fields(line), " "))
		}
	}
}

// TestInsideFailure makes the CRI service fail, which upstream answers by ending
// the process, and expects the component to fail and to come back in the same one.
func TestInsideFailure(t *testing.T) {
	dir := inside(t)
	n := newNode(t, dir)
	n.start()
	podID, pod := n.pod("kept")
	id := n.container(podID, pod, DefaultPauseImage)
	for range 2 {
		if err := os.RemoveAll(filepath.Join(n.opts.DataDir, "agent", "etc", "cni", "net.d")); err != nil {
			t.Fatal(err)
		}
		if line, err := n.out.ReadString('\n'); err != nil || line != "READY\n" {
			t.Fatalf("it did not come back: %q, %v", line, err)
		}
		if got := n.status(id).GetState(); got != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("container is %v", got)
		}
	}
	if !strings.Contains(n.log(), "restarted") || !strings.Contains(n.log(), "cni network conf monitor error") {
		t.Errorf("no reason is given:\n%s", n.log())
	}
	if _, err := n.runtime().StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: podID}); err != nil {
		t.Fatal(err)
	}
	n.stop(unix.SIGTERM)
}

// TestInsideSecond starts a second containerd on the socket of the first.
func TestInsideSecond(t *testing.T) {
	dir := inside(t)
	n := newNode(t, dir)
	n.start()
	second := newNode(t, dir)
	second.opts.RunDir = n.opts.RunDir
	if err := second.tryStart(); err == nil {
		t.Fatal("it started")
	}
	if !strings.Contains(second.log(), "another containerd uses") {
		t.Fatalf("unclear:\n%s", second.log())
	}
	if n.image(DefaultPauseImage) == nil {
		t.Error("the first one does not work any more")
	}
}

// TestInsideCorruption damages the databases in the ways of a power cut.
func TestInsideCorruption(t *testing.T) {
	dir := inside(t)
	for name, damage := range map[string]struct {
		file string
		do   func(b []byte) []byte
	}{
		"metadata cut":         {metadataDB, func(b []byte) []byte { return b[:len(b)/3] }},
		"metadata pages lost":  {metadataDB, func(b []byte) []byte { clear(b[2*4096:]); return b }},
		"metadata zero":        {metadataDB, func(b []byte) []byte { clear(b); return b }},
		"snapshots pages lost": {"io.containerd.snapshotter.v1.overlayfs/metadata.db", func(b []byte) []byte { clear(b[2*4096:]); return b }},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, dir)
			root := filepath.Join(n.opts.DataDir, "agent", "containerd")
			n.start()
			n.stop(unix.SIGTERM)
			path := filepath.Join(root, damage.file)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, path, damage.do(b))

			n.start()
			if !strings.Contains(n.log(), "database was broken") {
				t.Errorf("nothing said about it:\n%s", n.log())
			}
			kept, err := filepath.Glob(filepath.Join(root, metadataDB) + brokenSuffix + "*")
			if err != nil || len(kept) != 1 {
				t.Errorf("kept %v, %v", kept, err)
			}
			podID, pod := n.pod("again")
			if got := n.status(n.container(podID, pod, DefaultPauseImage)).GetState(); got != runtimeapi.ContainerState_CONTAINER_RUNNING {
				t.Errorf("container is %v", got)
			}
			n.eventually("broken snapshots are deleted", func() bool {
				left, err := filepath.Glob(filepath.Join(root, "*"+brokenSuffix+"*"))
				return err == nil && len(left) == 0
			})
			if _, err := n.runtime().StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: podID}); err != nil {
				t.Error(err)
			}
			n.stop(unix.SIGTERM)
		})
	}
}

// TestInsideNative starts where overlayfs does not work.
func TestInsideNative(t *testing.T) {
	dir := inside(t)
	n := newNode(t, dir)
	// An overlayfs cannot be the upper layer of another one.
	for _, d := range []string{"up", "work", "data"} {
		if err := os.MkdirAll(filepath.Join(n.opts.DataDir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(n.opts.DataDir, "data")
	opts := "lowerdir=" + dir + "/bin,upperdir=" + n.opts.DataDir + "/up,workdir=" + n.opts.DataDir + "/work"
	if err := unix.Mount("overlay", data, "overlay", 0, opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(data, unix.MNT_DETACH) })
	n.opts.DataDir = data
	n.start()
	if !strings.Contains(n.log(), "overlayfs cannot be used here") {
		t.Errorf("no warning:\n%s", n.log())
	}
	podID, pod := n.pod("native")
	if got := n.status(n.container(podID, pod, DefaultPauseImage)).GetState(); got != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("container is %v", got)
	}
	if _, err := n.runtime().StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: podID}); err != nil {
		t.Error(err)
	}
	n.stop(unix.SIGTERM)
}

// TestInsideImageFiles puts files in, breaks one, and takes one away.
func TestInsideImageFiles(t *testing.T) {
	dir := inside(t)
	n := newNode(t, dir)
	at := func(name string) string { return filepath.Join(n.opts.DataDir, "agent", "images", name) }
	one := dockerArchive(t, testImage(t, dir, "one"), "example.com/one:1", "example.com/one:latest")
	writeFile(t, at("one.tar.gz"), gzipOf(t, one))
	writeFile(t, at("broken.tar"), one[:len(one)/2])
	n.start()
	n.eventually("a file from before the start", func() bool { return n.image("example.com/one:latest") != nil })
	n.eventually("a broken file is reported", func() bool { return strings.Contains(n.log(), "broken.tar") })

	writeFile(t, at("two.tar"), dockerArchive(t, testImage(t, dir, "two"), "example.com/two:1"))
	n.eventually("a file that was written", func() bool { return n.image("example.com/two:1") != nil })
	writeFile(t, at(".moving"), dockerArchive(t, testImage(t, dir, "three"), "example.com/three:1"))
	if err := os.Rename(at(".moving"), at("three.tar")); err != nil {
		t.Fatal(err)
	}
	n.eventually("a file that was moved in", func() bool { return n.image("example.com/three:1") != nil })
	for _, ref := range []string{"example.com/one:1", "example.com/two:1", "example.com/three:1"} {
		n.eventually(ref+" pinned", func() bool { return n.image(ref).GetPinned() })
	}

	// Repaired: it is imported, and with nothing unknown any more, the image of
	// a file that is gone loses its pin.
	writeFile(t, at("broken.tar"), dockerArchive(t, testImage(t, dir, "four"), "example.com/four:1"))
	n.eventually("the repaired file", func() bool { return n.image("example.com/four:1") != nil })
	if err := os.Remove(at("two.tar")); err != nil {
		t.Fatal(err)
	}
	n.eventually("the image of a removed file is not pinned", func() bool { return !n.image("example.com/two:1").GetPinned() })
	n.eventually("the cache is written", func() bool {
		b, err := os.ReadFile(at(".cache.json"))
		return err == nil && strings.Contains(string(b), "four:1") && !strings.Contains(string(b), "two:1")
	})

	// A start finds nothing to do.
	n.stop(unix.SIGTERM)
	imports := strings.Count(n.log(), "image file imported")
	n.start()
	writeFile(t, at("last.tar"), dockerArchive(t, testImage(t, dir, "last"), "example.com/last:1"))
	n.eventually("a file after the restart", func() bool { return n.image("example.com/last:1") != nil })
	n.eventually("its log", func() bool { return strings.Count(n.log(), "image file imported") > imports })
	if got := strings.Count(n.log(), "image file imported"); got != imports+1 {
		t.Errorf("%d files were imported again", got-imports-1)
	}
	if !n.image("example.com/one:1").GetPinned() {
		t.Error("an image of an unchanged file is not pinned any more")
	}
	n.stop(unix.SIGTERM)
}

// TestInsidePlatforms imports archives in which things are missing.
func TestInsidePlatforms(t *testing.T) {
	dir := inside(t)
	n := newNode(t, dir)
	at := func(name string) string { return filepath.Join(n.opts.DataDir, "agent", "images", name) }
	writeFile(t, at("foreign.tar"), dockerArchive(t, foreignImage(t, dir), "example.com/foreign:1"))
	writeFile(t, at("multi.tar"), multiPlatformArchive(t, dir, "example.com/multi:1"))
	n.start()
	n.eventually("the platform that is there", func() bool { return n.image("example.com/multi:1") != nil })
	podID, pod := n.pod("multi")
	if got := n.status(n.container(podID, pod, "example.com/multi:1")).GetState(); got != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("container is %v", got)
	}
	n.eventually("the other one is refused", func() bool { return strings.Contains(n.log(), "there is no image for linux/") })
	if n.image("example.com/foreign:1") != nil {
		t.Error("an image for another platform looks usable")
	}
	if _, err := n.runtime().StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: podID}); err != nil {
		t.Fatal(err)
	}
	n.stop(unix.SIGTERM)
}

// TestInsideTemplate uses the user's template, right and wrong.
func TestInsideTemplate(t *testing.T) {
	dir := inside(t)
	n := newNode(t, dir)
	path := filepath.Join(n.opts.DataDir, "agent", "etc", "containerd", templateFile)
	writeFile(t, path, []byte("{{ template \"base\" . }}\n{{ .NoSuchField }}\n"))
	if err := n.tryStart(); err == nil {
		t.Fatal("it started with a broken template")
	}
	if !strings.Contains(n.log(), "NoSuchField") || !strings.Contains(n.log(), path) {
		t.Fatalf("unclear:\n%s", n.log())
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "config.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a configuration was written")
	}
	writeFile(t, path, []byte("{{ template \"base\" . }}\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.other]\n  runtime_type = 'io.containerd.runc.v2'\n"))
	n.start()
	resp, err := n.runtime().Status(t.Context(), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, h := range resp.GetRuntimeHandlers() {
		names = append(names, h.GetName())
	}
	if !strings.Contains(strings.Join(names, " "), "other") {
		t.Errorf("runtime handlers: %v", names)
	}
	n.stop(unix.SIGTERM)
}
