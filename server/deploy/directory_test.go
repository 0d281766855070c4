package deploy

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"
)

func testScanner(dir string, disabled ...string) *scanner {
	s := &scanner{dir: dir, origin: directoryOf(""), disabled: map[string]bool{}, visit: func(string) error { return nil }}
	for _, name := range disabled {
		s.disabled[name] = true
	}
	return s
}

func mustScan(t *testing.T, s *scanner) map[string]file {
	t.Helper()
	files, err := s.scan()
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string]file)
	for _, f := range files {
		out[f.id.path] = f
	}
	return out
}

func TestScanFindsManifests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a.yaml", "b.yml", "c.json", "D.YAML", "sub/deeper/e.yaml"} {
		put(t, dir, name, configMapYAML)
	}
	for _, name := range []string{".hidden.yaml", "a.yaml~", ".a.yaml.swp", "#a.yaml#", ".#a.yaml", "4913", "README.md", "a.yaml.tmp", ".git/x.yaml", "a.yaml.bak"} {
		put(t, dir, name, configMapYAML)
	}
	got := mustScan(t, testScanner(dir))
	var names []string
	for name, f := range got {
		names = append(names, name)
		if f.problem != nil || f.intent != intentApply || len(f.objects) != 1 || f.checksum == "" {
			t.Errorf("%s: %+v", name, f)
		}
	}
	slices.Sort(names)
	if want := []string{"D.YAML", "a.yaml", "b.yml", "c.json", "sub/deeper/e.yaml"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func TestScanIntents(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, "skipped.yaml", "not: [even yaml")
	put(t, dir, "skipped.yaml.skip", "")
	put(t, dir, "off.yaml", configMapYAML)
	put(t, dir, "sub/off.yml", configMapYAML)
	put(t, dir, "on.yaml", configMapYAML)
	got := mustScan(t, testScanner(dir, "off"))
	for name, want := range map[string]intent{"skipped.yaml": intentSkip, "off.yaml": intentRemove, "sub/off.yml": intentRemove, "on.yaml": intentApply} {
		if f, ok := got[name]; !ok || f.intent != want || f.problem != nil {
			t.Errorf("%s: %+v, want intent %v", name, f, want)
		}
	}
}

func TestScanRefuses(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	put(t, outside, "secret.yaml", configMapYAML)
	put(t, dir, "real/x.yaml", configMapYAML)
	for name, target := range map[string]string{
		"escape-absolute.yaml": filepath.Join(outside, "secret.yaml"),
		"escape-relative.yaml": "../" + filepath.Base(outside) + "/secret.yaml",
		"dangling.yaml":        "nowhere.yaml",
		"directory.yaml":       "real",
		"loop.yaml":            "loop.yaml",
		"inside.yaml":          "real/x.yaml",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "empty.yaml", "")
	put(t, dir, "comments.yaml", "# nothing\n---\n# here\n")
	put(t, dir, "broken.yaml", configMapYAML+"---\nkind: [\n")
	put(t, dir, "big.yaml", configMapYAML+"#"+strings.Repeat("x", maxFileSize))
	put(t, dir, "fits.yaml", configMapYAML+"#"+strings.Repeat("x", maxFileSize-len(configMapYAML)-1))

	got := mustScan(t, testScanner(dir)) // a pipe must not block it
	for name, want := range map[string]string{
		"escape-absolute.yaml": "out of the manifests directory",
		"escape-relative.yaml": "out of the manifests directory",
		"dangling.yaml":        "leads nowhere",
		"directory.yaml":       "link to a directory",
		"loop.yaml":            "leads nowhere",
		"pipe.yaml":            "not a regular file",
		"empty.yaml":           "holds no object",
		"comments.yaml":        "holds no object",
		"broken.yaml":          "document 2",
		"big.yaml":             "more than the 5242880",
	} {
		f, ok := got[name]
		if !ok || f.problem == nil || !strings.Contains(f.problem.Error(), want) || !f.held() {
			t.Errorf("%s: found %v, problem %v, want %q", name, ok, f.problem, want)
		}
	}
	for _, name := range []string{"inside.yaml", "fits.yaml", "real/x.yaml"} {
		if f := got[name]; f.problem != nil || len(f.objects) != 1 {
			t.Errorf("%s: %+v", name, f.problem)
		}
	}
}

// A file that is open for writing may be half of itself; applying it would
// delete the objects of the other half.
func TestScanWaitsForWriters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := put(t, dir, "a.yaml", configMapYAML)
	writer, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := testScanner(dir)
	if f := mustScan(t, s)["a.yaml"]; f.intent != intentWait {
		t.Errorf("while it is being written: %+v", f)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if f := mustScan(t, s)["a.yaml"]; f.intent != intentApply || f.problem != nil {
		t.Errorf("after it was written: %+v", f)
	}
	// Looking must not keep the next writer out.
	if _, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err != nil {
		t.Errorf("open for writing after a scan: %v", err)
	}
}

func TestScanRevisions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := put(t, dir, "a.yaml", configMapYAML)
	s := testScanner(dir)
	first := mustScan(t, s)["a.yaml"]
	if again := mustScan(t, s)["a.yaml"]; again.revision != first.revision {
		t.Errorf("revision changed by itself: %q, %q", first.revision, again.revision)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	touched := mustScan(t, s)["a.yaml"]
	if touched.revision == first.revision || touched.checksum != first.checksum {
		t.Errorf("after a touch: revision %q, checksum %q", touched.revision, touched.checksum)
	}
}

func TestScanFailsAsAWhole(t *testing.T) {
	t.Parallel()
	if files, err := testScanner(filepath.Join(t.TempDir(), "missing")).scan(); err == nil {
		t.Errorf("a missing directory gave %v", files)
	}
	dir := t.TempDir()
	put(t, dir, "sub/a.yaml", configMapYAML)
	s := testScanner(dir)
	s.visit = func(d string) error {
		if filepath.Base(d) == "sub" {
			return fs.ErrPermission
		}
		return nil
	}
	if files, err := s.scan(); err == nil {
		t.Errorf("a directory that cannot be watched gave %v", files)
	}
}

func TestReadEmbedded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, "c.yaml.skip", "")
	embedded := fstest.MapFS{
		"a.yaml":   {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {ip: '%{IP}%'}\n")},
		"b.yaml":   {Data: []byte(configMapYAML)},
		"c.yaml":   {Data: []byte(configMapYAML)},
		"embed.go": {Data: []byte("package x")},
	}
	files, err := readEmbedded(embedded, map[string]string{"IP": "10.43.0.10"}, map[string]bool{"b": true}, dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 3 || files[0].intent != intentApply || files[1].intent != intentRemove || files[2].intent != intentSkip {
		t.Fatalf("got %+v", files)
	}
	if got := files[0].objects[0].Object["data"].(map[string]any)["ip"]; got != "10.43.0.10" {
		t.Errorf("variable became %v", got)
	}
	if _, err := readEmbedded(embedded, nil, nil, dir); err == nil || !strings.Contains(err.Error(), "a.yaml") {
		t.Errorf("missing variable: %v", err)
	}
}

// The real thing: events of the file system, through scanner and watcher.
func TestWatcherSeesChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, dir, "sub/old.yaml", configMapYAML)
	watch, err := newWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.close()
	s := testScanner(dir)
	s.visit = watch.add
	mustScan(t, s)
	for _, change := range []struct {
		name string
		do   func() error
	}{
		{"create", func() error { return os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("x"), 0o600) }},
		{"write", func() error { return os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("y"), 0o600) }},
		{"touch", func() error { return os.Chtimes(filepath.Join(dir, "a.yaml"), time.Time{}, time.Now()) }},
		{"rename into place", func() error {
			return os.Rename(put(t, t.TempDir(), "b", configMapYAML), filepath.Join(dir, "b.yaml"))
		}},
		{"in a sub-directory", func() error { return os.Remove(filepath.Join(dir, "sub", "old.yaml")) }},
		{"new directory", func() error { return os.Mkdir(filepath.Join(dir, "new"), 0o700) }},
		{"in the new directory", func() error { return os.WriteFile(filepath.Join(dir, "new", "n.yaml"), nil, 0o600) }},
		{"remove", func() error { return os.RemoveAll(filepath.Join(dir, "new")) }},
	} {
		if err := change.do(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		changed, err := watch.wait(ctx, time.Time{})
		cancel()
		if err != nil || !changed {
			t.Errorf("%s: changed %v, %v", change.name, changed, err)
		}
		mustScan(t, s)
	}
}

func TestWatcherWaits(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	watch, err := newWatcher()
	if err != nil {
		t.Fatal(err)
	}
	defer watch.close()
	if err := watch.add(dir); err != nil {
		t.Fatal(err)
	}
	if changed, err := watch.wait(t.Context(), time.Now().Add(time.Millisecond)); changed || err != nil {
		t.Errorf("at its time: %v, %v", changed, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if changed, err := watch.wait(ctx, time.Time{}); changed || err != nil {
		t.Errorf("when stopped: %v, %v", changed, err)
	}
	// A writer who never rests must not keep the changes from being applied.
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			_ = os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i%8)), []byte("x"), 0o600)
			time.Sleep(quietTime / 10) // the load itself, not a wait for something
		}
	}()
	began := time.Now()
	if changed, err := watch.wait(ctx, time.Time{}); !changed || err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("with a busy writer: %v, %v after %v", changed, err, time.Since(began))
	}
}
