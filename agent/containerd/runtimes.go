package containerd

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Runtime is one entry of containerd's runtimes table; its Name is the handler
// that a RuntimeClass refers to.
type Runtime struct {
	Name string
	// Type is containerd's name of the shim, e.g. "io.containerd.runc.v2".
	Type string
	// Shim is the path of the shim's executable. It is not in the configuration
	// as runtime_path, because then containerd, started again, finds only the
	// sandboxes of its pods and not their containers: see ensurePath.
	Shim string
	// BinaryName is the OCI runtime that runc's shim calls; empty for shims
	// that are a runtime themselves.
	BinaryName string
}

const (
	runtimeRunc = "runc"
	runcType    = "io.containerd.runc.v2"
	runcShim    = "containerd-shim-runc-v2"
)

// runtimeDirs is where runtimes of other parties are installed, best first: the
// NVIDIA operator's directory, packages, and KWasm's. PATH is not used: a
// service's PATH says nothing about what was installed.
var runtimeDirs = []string{
	"/usr/local/nvidia/toolkit", "/usr/local/sbin", "/usr/local/bin",
	"/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/kwasm/bin",
}

// foreignRuntime is a runtime that is used when its executable is found.
type foreignRuntime struct {
	name, executable string
	shimType         string // empty: it replaces runc under runc's shim
}

// foreignRuntimes are the ones that k3s knows too, under the same handler names.
func foreignRuntimes() []foreignRuntime {
	return []foreignRuntime{
		{name: "crun", executable: "crun"},
		{name: "lunatic", executable: "containerd-shim-lunatic-v1", shimType: "io.containerd.lunatic.v1"},
		{name: "nvidia", executable: "nvidia-container-runtime"},
		{name: "slight", executable: "containerd-shim-slight-v1", shimType: "io.containerd.slight.v1"},
		{name: "spin", executable: "containerd-shim-spin-v2", shimType: "io.containerd.spin.v2"},
		{name: "wasmedge", executable: "containerd-shim-wasmedge-v1", shimType: "io.containerd.wasmedge.v1"},
		{name: "wasmer", executable: "containerd-shim-wasmer-v1", shimType: "io.containerd.wasmer.v1"},
		{name: "wasmtime", executable: "containerd-shim-wasmtime-v1", shimType: "io.containerd.wasmtime.v1"},
		{name: "wws", executable: "containerd-shim-wws-v1", shimType: "io.containerd.wws.v1"},
	}
}

// findRuntimes lists runc of the payload, then every foreign runtime found, by
// name. stat is os.Stat, or a table in tests.
func findRuntimes(payloadBin string, stat func(string) (fs.FileInfo, error)) []Runtime {
	shim := filepath.Join(payloadBin, runcShim)
	found := []Runtime{{Name: runtimeRunc, Type: runcType, Shim: shim, BinaryName: filepath.Join(payloadBin, runtimeRunc)}}
	for _, f := range foreignRuntimes() {
		for _, dir := range runtimeDirs {
			path := filepath.Join(dir, f.executable)
			info, err := stat(path)
			if err != nil || info.IsDir() || info.Mode().Perm()&0o111 == 0 {
				continue
			}
			r := Runtime{Name: f.name, Type: f.shimType, Shim: path}
			if f.shimType == "" {
				r = Runtime{Name: f.name, Type: runcType, Shim: shim, BinaryName: path}
			}
			found = append(found, r)
			break
		}
	}
	return found
}

// ensurePath makes containerd find the shims of these runtimes by name, which is
// the only way that it knows: it puts their directories in front of the process's
// PATH, unless they are found there already.
func ensurePath(runtimes []Runtime, stat func(string) (fs.FileInfo, error)) error {
	path := os.Getenv("PATH")
	wanted := pathFor(path, runtimes, stat)
	if wanted == path {
		return nil
	}
	if err := os.Setenv("PATH", wanted); err != nil {
		return fmt.Errorf("set PATH: %w", err)
	}
	return nil
}

// pathFor returns path with what it lacks. The runtimes listed first win.
func pathFor(path string, runtimes []Runtime, stat func(string) (fs.FileInfo, error)) string {
	for _, r := range slices.Backward(runtimes) {
		dir, name := filepath.Split(r.Shim)
		dir = filepath.Clean(dir)
		first := slices.IndexFunc(filepath.SplitList(path), func(d string) bool {
			_, err := stat(filepath.Join(d, name))
			return err == nil
		})
		if first >= 0 && filepath.SplitList(path)[first] == dir {
			continue
		}
		path = strings.TrimSuffix(dir+string(filepath.ListSeparator)+path, string(filepath.ListSeparator))
	}
	return path
}
