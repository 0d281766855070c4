package atomicfile

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWriteReplacesContentAndMode(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key.pem")
	for _, step := range []struct {
		data string
		mode os.FileMode
	}{{"first", 0o600}, {"second, longer", 0o644}, {"", 0o640}} {
		if err := Write(path, []byte(step.data), step.mode); err != nil {
			t.Fatal(err)
		}
		assertFile(t, path, step.data, step.mode)
	}
	assertOnly(t, filepath.Dir(path), "key.pem")
}

func TestWriteFailureKeepsOldFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	// The rename onto a directory that is not empty must fail after the
	// temporary file was written: the hardest place to clean up.
	target := filepath.Join(dir, "occupied")
	if err := os.MkdirAll(filepath.Join(target, "child"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := Write(target, []byte("x"), 0o600)
	if err == nil || !strings.Contains(err.Error(), target) {
		t.Fatalf("Write onto a directory: got %v, want an error that names %s", err, target)
	}
	assertOnly(t, dir, "occupied")

	missing := filepath.Join(dir, "no", "such", "file")
	if err := Write(missing, nil, 0o600); err == nil || !strings.Contains(err.Error(), missing) {
		t.Fatalf("Write into a missing directory: got %v", err)
	}
}

func TestWriteReplacesSymlinkItself(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte("keep me"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := Write(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	assertFile(t, target, "keep me", 0o600)
	assertFile(t, link, "new", 0o600)
}

func TestWriteIfChanged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config")
	for i, step := range []struct {
		data    string
		mode    os.FileMode
		changed bool
	}{
		{"a", 0o600, true},
		{"a", 0o600, false},
		{"b", 0o600, true},  // same length, other content
		{"b", 0o644, true},  // other mode only
		{"b", 0o644, false}, // settled
	} {
		before := inode(t, path)
		changed, err := WriteIfChanged(path, []byte(step.data), step.mode)
		if err != nil {
			t.Fatal(err)
		}
		if changed != step.changed {
			t.Errorf("step %d: changed = %v, want %v", i, changed, step.changed)
		}
		if !step.changed && !os.SameFile(before, inode(t, path)) {
			t.Errorf("step %d: the file was rewritten", i)
		}
		assertFile(t, path, step.data, step.mode)
	}
}

func inode(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return info
}

func assertFile(t *testing.T, path, data string, mode os.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, []byte(data)) {
		t.Errorf("%s holds %q, want %q", path, got, data)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != mode {
		t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), mode)
	}
}

func assertOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(names, " ") {
		t.Errorf("%s holds %v, want %v", dir, got, names)
	}
}
