package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// statIn is os.Stat in a file system that holds only these executables.
func statIn(paths ...string) func(string) (fs.FileInfo, error) {
	files := fstest.MapFS{}
	for _, p := range paths {
		mode := fs.FileMode(0o755)
		if p, plain := strings.CutSuffix(p, "!"); plain { // not executable
			files[p[1:]] = &fstest.MapFile{Mode: 0o644}
			continue
		}
		files[p[1:]] = &fstest.MapFile{Mode: mode}
	}
	return func(p string) (fs.FileInfo, error) { return files.Stat(strings.TrimPrefix(p, "/")) }
}

func TestFindRuntimes(t *testing.T) {
	t.Parallel()
	const shim = "/payload/bin/containerd-shim-runc-v2"
	runc := Runtime{Name: "runc", Type: runcType, Shim: shim, BinaryName: "/payload/bin/runc"}
	for name, tc := range map[string]struct {
		files []string
		want  []Runtime
	}{
		"nothing": {want: []Runtime{runc}},
		"crun and nvidia": {
			files: []string{"/usr/bin/crun", "/usr/bin/nvidia-container-runtime"},
			want: []Runtime{runc, {Name: "crun", Type: runcType, Shim: shim, BinaryName: "/usr/bin/crun"},
				{Name: "nvidia", Type: runcType, Shim: shim, BinaryName: "/usr/bin/nvidia-container-runtime"}},
		},
		"the operator's nvidia first": {
			files: []string{"/usr/bin/nvidia-container-runtime", "/usr/local/nvidia/toolkit/nvidia-container-runtime"},
			want:  []Runtime{runc, {Name: "nvidia", Type: runcType, Shim: shim, BinaryName: "/usr/local/nvidia/toolkit/nvidia-container-runtime"}},
		},
		"wasm": {
			files: []string{"/opt/kwasm/bin/containerd-shim-spin-v2", "/usr/local/bin/containerd-shim-wasmtime-v1", "/usr/bin/containerd-shim-slight-v1!"},
			want: []Runtime{runc, {Name: "spin", Type: "io.containerd.spin.v2", Shim: "/opt/kwasm/bin/containerd-shim-spin-v2"},
				{Name: "wasmtime", Type: "io.containerd.wasmtime.v1", Shim: "/usr/local/bin/containerd-shim-wasmtime-v1"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := findRuntimes("/payload/bin", statIn(tc.files...)); !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestPathFor(t *testing.T) {
	t.Parallel()
	files := []string{"/payload/bin/containerd-shim-runc-v2", "/usr/bin/containerd-shim-runc-v2", "/opt/kwasm/bin/containerd-shim-spin-v2"}
	runtimes := findRuntimes("/payload/bin", statIn(files...))
	for path, want := range map[string]string{
		"":                              "/payload/bin:/opt/kwasm/bin",
		"/usr/bin:/bin":                 "/payload/bin:/opt/kwasm/bin:/usr/bin:/bin",
		"/payload/bin:/usr/bin":         "/opt/kwasm/bin:/payload/bin:/usr/bin",
		"/sbin:/payload/bin:/usr/bin":   "/opt/kwasm/bin:/sbin:/payload/bin:/usr/bin",
		"/usr/bin:/payload/bin":         "/payload/bin:/opt/kwasm/bin:/usr/bin:/payload/bin",
		"/opt/kwasm/bin:/payload/bin:/": "/opt/kwasm/bin:/payload/bin:/",
	} {
		if got := pathFor(path, runtimes, statIn(files...)); got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}

func TestChooseSnapshotter(t *testing.T) {
	t.Parallel()
	works := func() error { return nil }
	fails := func() error { return errors.New("no overlayfs here") }
	full := func() error { return fmt.Errorf("probe overlayfs: %w", unix.ENOSPC) }
	for name, tc := range map[string]struct {
		asked            string
		templated, inUse bool
		probe            func() error
		want             string
		warns            bool
		fails            string
	}{
		"default":                  {probe: works, want: "overlayfs"},
		"falls back":               {asked: "overlayfs", probe: fails, want: "native", warns: true},
		"not away from its images": {inUse: true, probe: fails, fails: "holds the images"},
		"full disk":                {inUse: true, probe: full, want: "overlayfs", warns: true},
		"native":                   {asked: "native", probe: fails, want: "native"},
		"unknown":                  {asked: "stargz", probe: works, fails: "not built in"},
		"added by a template":      {asked: "stargz", templated: true, probe: fails, want: "stargz"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, warning, err := chooseSnapshotter(tc.asked, tc.templated, tc.inUse, tc.probe)
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil || got != tc.want || (warning != "") != tc.warns {
				t.Errorf("got %q, warning %q, %v", got, warning, err)
			}
		})
	}
}

// TestRepairMetadata covers what the test on a real containerd does not: that
// whole databases are left alone, and that only one broken one is kept.
func TestRepairMetadata(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		return path
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	log := slog.New(slog.DiscardHandler)
	repair := func() {
		t.Helper()
		if err := repairMetadata(root, now, log); err != nil {
			t.Fatal(err)
		}
	}
	count := func(pattern string) int {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	repair() // nothing there at all
	meta := write(metadataDB)
	write("io.containerd.snapshotter.v1.overlayfs/metadata.db")
	repair()
	if count(metadataDB) != 1 || count("*/*"+brokenSuffix+"*") != 0 {
		t.Fatal("whole databases were put aside")
	}
	for range 2 {
		if err := os.WriteFile(meta, []byte("broken"), 0o600); err != nil {
			t.Fatal(err)
		}
		repair()
		if count(metadataDB) != 0 || count(metadataDB+brokenSuffix+"*") != 1 {
			t.Fatal("the broken database was not put aside, alone")
		}
		now = now.Add(time.Hour)
	}
	if count("io.containerd.snapshotter.v1.overlayfs") != 0 || count("io.containerd.snapshotter.v1.overlayfs"+brokenSuffix+"20260102T030405") != 1 {
		t.Fatal("the snapshots of the lost database are still there")
	}
	if err := sweepBroken(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	if count("*"+brokenSuffix+"*") != 0 || count(metadataDB+brokenSuffix+"*") != 1 {
		t.Fatal("sweepBroken deleted the wrong things")
	}
	write(metadataDB)
	if err := markSuspect(root, "bbolt panicked"); err != nil {
		t.Fatal(err)
	}
	repair()
	repair()
	if count(metadataDB) != 0 || count(suspectMarker) != 0 {
		t.Fatal("a database that made bbolt panic was kept")
	}
}
