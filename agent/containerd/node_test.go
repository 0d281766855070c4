package containerd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpetio/limpet/internal/logging"
)

// The tests that need a real containerd run in namespaces of their own, so that
// they touch neither the network nor the mounts of the machine:
//
//	go test ── TestNode ──▶ this binary again, as process 1 of new namespaces:
//	                        TestInside… ──▶ this binary again: containerd,
//	                                        which can be killed and started again
const (
	insideEnv = "LIMPET_TEST_INSIDE" // the directory of the test's files
	serveEnv  = "LIMPET_TEST_SERVE"  // settings, as JSON
)

// settings are the Options that the tests choose.
type settings struct{ DataDir, RunDir, PayloadBin, PauseArchive, RegistriesFile string }

func TestMain(m *testing.M) {
	if opts := os.Getenv(serveEnv); opts != "" {
		if err := serveOptions(opts); err != nil {
			fmt.Fprintln(os.Stderr, "containerd:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveOptions runs the component as limpet does, until SIGTERM: when it fails
// after it was ready, it is run again in the same process.
func serveOptions(encoded string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	var s settings
	if err := json.Unmarshal([]byte(encoded), &s); err != nil {
		return err
	}
	opts := Options{
		DataDir: s.DataDir, RunDir: s.RunDir, PayloadBin: s.PayloadBin, PauseArchive: s.PauseArchive,
		RegistriesFile: s.RegistriesFile, RestrictOOMScoreAdj: true,
		Logger: logging.Setup(os.Stderr, logging.Options{}).Root,
	}
	c := New(opts)
	for {
		ready := false
		err := c.Run(ctx, func() { ready = true; fmt.Println("READY") })
		if err == nil || !ready {
			return err
		}
		opts.Logger.Info("restarted", "reason", err)
	}
}

// TestNode runs every TestInside… in new namespaces.
func TestNode(t *testing.T) {
	t.Parallel()
	if os.Getenv(insideEnv) != "" {
		t.Skip("already inside")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root for namespaces and mounts")
	}
	dir := t.TempDir()
	unpackPayload(t, dir)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, self, "-test.run=^TestInside", "-test.v="+fmt.Sprint(testing.Verbose()))
	cmd.Env = append(os.Environ(), insideEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil || testing.Verbose() {
		t.Logf("%s", out)
	}
	if err != nil {
		t.Errorf("tests inside: %v", err)
	}
	removeCgroups(t, cgroupParent(dir))
}

// cgroupParent is a control group that no other test uses.
func cgroupParent(dir string) string { return "/limpet-" + filepath.Base(filepath.Dir(dir)) }

// removeCgroups removes the empty groups that killed containers leave behind.
func removeCgroups(t *testing.T, name string) {
	t.Helper()
	roots, err := filepath.Glob("/sys/fs/cgroup/*" + name)
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range append(roots, "/sys/fs/cgroup"+name) {
		var dirs []string
		_ = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Logf("control group stays: %v", err)
			}
		}
	}
}

// unpackPayload puts bin/ and pause.tar below dir, or skips the test.
func unpackPayload(t *testing.T, dir string) {
	t.Helper()
	archive, err := filepath.Abs("../../.cache/payload/" + runtime.GOARCH + "/payload.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(archive); err != nil {
		t.Skip("the payload is not built (scripts/payload)")
	}
	extract(t, archive, dir)
}

// inside prepares the namespaces once and returns the test's directory.
func inside(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(insideEnv)
	if dir == "" {
		t.Skip("runs inside of TestNode")
	}
	if _, err := os.Stat("/run/limpet-inside"); err == nil {
		return dir
	}
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount("proc", "/proc", "proc", 0, "") },
		func() error { return unix.Mount("tmpfs", "/run", "tmpfs", 0, "") },
		func() error { return os.WriteFile("/run/limpet-inside", nil, 0o600) },
		loopbackUp,
	} {
		if err := step(); err != nil {
			t.Fatalf("prepare namespaces: %v", err)
		}
	}
	return dir
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// node is a containerd in a process of its own.
type node struct {
	t    *testing.T
	opts settings
	cmd  *exec.Cmd
	logs *os.File
	out  *bufio.Reader
	conn *grpc.ClientConn
	// startup is the time from exec to ready.
	startup time.Duration
}

// newNode returns a node with an empty data directory; start it.
func newNode(t *testing.T, dir string) *node {
	t.Helper()
	home := filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-"))
	run := "/run/" + fmt.Sprint(time.Now().UnixNano()%1e9) // short: it is part of sockets' names
	for _, d := range []string{home, run} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	logs, err := os.Create(filepath.Join(home, "log"))
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, logs: logs, opts: settings{
		DataDir: home, RunDir: run, PayloadBin: filepath.Join(dir, "bin"), PauseArchive: filepath.Join(dir, "pause.tar"),
		RegistriesFile: filepath.Join(home, "registries.yaml"),
	}}
	t.Cleanup(n.cleanup)
	return n
}

func (n *node) start() {
	n.t.Helper()
	if err := n.tryStart(); err != nil {
		n.t.Fatalf("start: %v\n%s", err, n.log())
	}
}

func (n *node) tryStart() error {
	opts, err := json.Marshal(n.opts)
	if err != nil {
		return err
	}
	n.cmd = exec.Command("/proc/self/exe")
	n.cmd.Env = []string{serveEnv + "=" + string(opts), "PATH="} // it must not need a PATH
	n.cmd.Stderr = n.logs
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := n.cmd.Start(); err != nil {
		return err
	}
	n.out = bufio.NewReader(out)
	line, err := n.out.ReadString('\n')
	n.startup = time.Since(began)
	if line != "READY\n" {
		return errors.Join(err, n.cmd.Wait())
	}
	n.conn, err = grpc.NewClient("unix://"+SocketPath(n.opts.RunDir), grpc.WithTransportCredentials(insecure.NewCredentials()))
	return err
}

func (n *node) log() string {
	b, err := os.ReadFile(n.logs.Name())
	if err != nil {
		n.t.Fatal(err)
	}
	return string(b)
}

// stop ends the process with the signal and waits for it.
func (n *node) stop(sig os.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(sig); err != nil {
		n.t.Fatal(err)
	}
	err := n.cmd.Wait()
	if sig != unix.SIGKILL && err != nil {
		n.t.Fatalf("stop: %v\n%s", err, n.log())
	}
	_ = n.conn.Close()
	n.cmd = nil
}

func (n *node) cleanup() {
	if n.t.Failed() {
		n.t.Logf("log of containerd:\n%s", n.log())
	}
	if n.cmd != nil && n.cmd.ProcessState == nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
	}
	_ = n.logs.Close()
}

func (n *node) pid() string { return strconv.Itoa(n.cmd.Process.Pid) }

func (n *node) runtime() runtimeapi.RuntimeServiceClient {
	return runtimeapi.NewRuntimeServiceClient(n.conn)
}

func (n *node) images() runtimeapi.ImageServiceClient {
	return runtimeapi.NewImageServiceClient(n.conn)
}

// pod runs a sandbox with this machine's (the test's) network and returns its id.
func (n *node) pod(name string) (string, *runtimeapi.PodSandboxConfig) {
	n.t.Helper()
	config := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name + "-uid"},
		LogDirectory: filepath.Join(n.opts.DataDir, "logs"),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: cgroupParent(os.Getenv(insideEnv)),
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
			},
		},
	}
	resp, err := n.runtime().RunPodSandbox(n.t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		n.t.Fatalf("run sandbox: %v", err)
	}
	return resp.GetPodSandboxId(), config
}

// container starts a container of the image in the pod and returns its id.
func (n *node) container(podID string, pod *runtimeapi.PodSandboxConfig, image string) string {
	n.t.Helper()
	created, err := n.runtime().CreateContainer(n.t.Context(), &runtimeapi.CreateContainerRequest{
		PodSandboxId: podID, SandboxConfig: pod,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "main"},
			Image:    &runtimeapi.ImageSpec{Image: image},
			LogPath:  "main.log",
			Linux:    &runtimeapi.LinuxContainerConfig{Resources: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20}},
		},
	})
	if err != nil {
		n.t.Fatalf("create container: %v", err)
	}
	if _, err := n.runtime().StartContainer(n.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: created.GetContainerId()}); err != nil {
		n.t.Fatalf("start container: %v", err)
	}
	return created.GetContainerId()
}

func (n *node) status(container string) *runtimeapi.ContainerStatus {
	n.t.Helper()
	resp, err := n.runtime().ContainerStatus(n.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: container})
	if err != nil {
		n.t.Fatalf("container status: %v", err)
	}
	return resp.GetStatus()
}

// image returns what the CRI service knows of an image; nil: nothing.
func (n *node) image(ref string) *runtimeapi.Image {
	n.t.Helper()
	resp, err := n.images().ImageStatus(n.t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		n.t.Fatalf("image status: %v", err)
	}
	return resp.GetImage()
}

// eventually waits, in short steps, for what only containerd's own events bring
// about and no call can wait for.
func (n *node) eventually(what string, ok func() bool) {
	n.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			n.t.Fatalf("still not: %s", what)
		}
	}
}
