package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestFollowsFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.start(fstest.MapFS{"core.yaml": {Data: []byte(manifest("core"))}})
	put(t, w.dir, "a.yaml", manifest("a1", "a2"))
	put(t, w.dir, "sub/b.yaml", manifest("b"))
	if !p.change() {
		t.Error("embedded files are not served")
	}
	w.has("a1", "a2", "b", "core")

	put(t, w.dir, "a.yaml", manifest("a2", "a3"))
	p.change()
	w.has("a2", "a3", "b", "core")

	if err := os.Remove(filepath.Join(w.dir, "sub", "b.yaml")); err != nil {
		t.Fatal(err)
	}
	p.change()
	w.has("a2", "a3", "core")
	if got, want := p.states(), "embedded:core.yaml Applied, a.yaml Applied"; got != want {
		t.Errorf("status %q, want %q", got, want)
	}
	p.idle()

	w.did()
	p.change()
	if did := w.did(); did != "" {
		t.Errorf("without a change it did: %s", did)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	put(t, w.dir, "a.yaml", manifest("a1", "a2"))
	put(t, w.dir, "b.yaml", manifest("b"))
	embedded := fstest.MapFS{"core.yaml": {Data: []byte(manifest("core", "old"))}}
	w.start(embedded).change()
	w.has("a1", "a2", "b", "core", "old")

	// While it is down: one object is deleted by hand, another taken over by
	// someone, a file changes, a file goes, and the program is replaced.
	delete(w.objects, "core")
	w.objects["a2"] = "somebody"
	put(t, w.dir, "a.yaml", manifest("a1"))
	if err := os.Remove(filepath.Join(w.dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	embedded["core.yaml"] = &fstest.MapFile{Data: []byte(manifest("core"))}
	w.events = nil
	p := w.start(embedded)
	p.change()
	w.has("a1", "a2", "core") // a2 is not ours any more
	if len(w.maps) != 2 {
		t.Errorf("%d records are left, want 2", len(w.maps))
	}

	// A start where nothing changed writes no record and no Event.
	w.events = nil
	w.did()
	w.start(embedded).change()
	if did := w.did(); strings.Contains(did, "record") || strings.Contains(did, "delete") || len(w.events) > 0 {
		t.Errorf("an unchanged start did: %s; events %q", did, w.events)
	}
}

func TestBrokenFileStopsNoOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.start(fstest.MapFS{})
	put(t, w.dir, "a.yaml", manifest("a"))
	put(t, w.dir, "b.yaml", manifest("b"))
	p.change()
	put(t, w.dir, "a.yaml", manifest("a")+"---\nkind: [")
	put(t, w.dir, "b.yaml", manifest("b", "b2"))
	put(t, w.dir, "c.yaml", "")
	p.change()
	w.has("a", "b", "b2")
	if got := p.states(); !strings.Contains(got, "a.yaml Failed (document 2") || !strings.Contains(got, "b.yaml Applied") || !strings.Contains(got, "c.yaml Failed (it holds no object") {
		t.Errorf("status %q", got)
	}
	if events := strings.Join(w.events, "\n"); !strings.Contains(events, "ApplyFailed directory:a.yaml: document 2") {
		t.Errorf("events:\n%s", events)
	}
	p.idle() // only a change of the file can help

	put(t, w.dir, "a.yaml", manifest("a3"))
	p.change()
	w.has("a3", "b", "b2")
	// The file that never worked leaves no trace when it goes.
	if err := os.Remove(filepath.Join(w.dir, "c.yaml")); err != nil {
		t.Fatal(err)
	}
	p.change()
	if got, want := p.states(), "a.yaml Applied, b.yaml Applied"; got != want {
		t.Errorf("status %q, want %q", got, want)
	}
}

func TestFailureDeletesNothingAndIsTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.start(fstest.MapFS{})
	put(t, w.dir, "a.yaml", manifest("a", "old"))
	p.change()

	w.failing("new", "no such kind")
	put(t, w.dir, "a.yaml", manifest("a", "new"))
	put(t, w.dir, "b.yaml", manifest("b"))
	p.change()
	w.has("a", "b", "old")
	if got, want := p.states(), "a.yaml Failed (ConfigMap new: no such kind), b.yaml Applied"; got != want {
		t.Errorf("status %q, want %q", got, want)
	}
	events := len(w.events)
	w.did()
	p.retry()
	if did := w.did(); strings.Contains(did, "apply b") || strings.Contains(did, "delete") {
		t.Errorf("a retry did: %s", did)
	}
	if len(w.events) != events {
		t.Errorf("every retry is an Event: %q", w.events[events:])
	}

	w.failing("new", "")
	p.retry()
	w.has("a", "b", "new")
	p.idle()
	if last := w.events[len(w.events)-1]; !strings.HasPrefix(last, "Applied directory:a.yaml") {
		t.Errorf("last event %q", last)
	}
}

// Killed anywhere, nothing may exist that no record knows of.
func TestRecordComesFirst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	put(t, w.dir, "a.yaml", manifest("a"))
	w.failing("a.yaml", "disk full") // its record
	p := w.start(fstest.MapFS{})
	p.change()
	w.has()
	w.failing("a.yaml", "")
	p.retry()
	if did, want := w.did(), "record a.yaml, apply a"; did != want {
		t.Errorf("did %q, want %q", did, want)
	}

	// Killed between apply and prune: the next process finishes.
	put(t, w.dir, "a.yaml", manifest("b"))
	w.failing("a", "killed") // its deletion
	p.change()
	w.has("a", "b")
	w.failing("a", "")
	w.start(fstest.MapFS{}).change()
	w.has("b")
}

func TestOrderAcrossFiles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.start(fstest.MapFS{})
	const crd = "---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: things.example.org}\n"
	const ns = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: ns}\n"
	const cr = "---\napiVersion: example.org/v1\nkind: Thing\nmetadata: {name: thing, namespace: ns}\n"
	a, z := put(t, w.dir, "a.yaml", cr), put(t, w.dir, "z.yaml", crd+ns)
	p.change()
	order := func(want ...string) {
		t.Helper()
		did := w.did()
		at := -1
		for _, name := range want {
			i := strings.Index(did, name)
			if i <= at {
				t.Fatalf("did %q, want %q in this order", did, want)
			}
			at = i
		}
	}
	order("apply ns", "apply things.example.org", "apply ns/thing")
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(z); err != nil {
		t.Fatal(err)
	}
	p.change()
	order("delete ns/thing", "delete things.example.org", "delete ns,")
	w.has()
}

func TestDisableAndSkip(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	embedded := fstest.MapFS{"coredns.yaml": {Data: []byte(manifest("dns"))}, "rbac.yaml": {Data: []byte(manifest("rbac"))}}
	put(t, w.dir, "a.yaml", manifest("a"))
	w.start(embedded).change()
	w.has("a", "dns", "rbac")

	p := w.start(embedded, "coredns")
	if !p.pass(t.Context(), nil, true) {
		t.Error("a disabled file holds up ready")
	}
	p.change()
	w.has("a", "rbac")
	if got, want := p.states(), "embedded:coredns.yaml Disabled, embedded:rbac.yaml Applied, a.yaml Applied"; got != want {
		t.Errorf("status %q, want %q", got, want)
	}

	w.start(embedded).change()
	w.has("a", "dns", "rbac")
	skip := put(t, w.dir, "a.yaml.skip", "")
	put(t, w.dir, "coredns.yaml.skip", "")
	put(t, w.dir, "a.yaml", manifest("other"))
	p = w.start(embedded)
	p.change()
	w.has("a", "dns", "rbac")
	if got, want := p.states(), "embedded:coredns.yaml Skipped, embedded:rbac.yaml Applied, a.yaml Skipped"; got != want {
		t.Errorf("status %q, want %q", got, want)
	}
	if err := os.Remove(skip); err != nil {
		t.Fatal(err)
	}
	p.change()
	w.has("dns", "other", "rbac")
}

func TestMissingDirectoryTakesNothingAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := put(t, w.dir, "a.yaml", manifest("a"))
	w.start(fstest.MapFS{}).change()
	gone := func() {
		t.Helper()
		if err := os.RemoveAll(w.dir); err != nil {
			t.Fatal(err)
		}
	}
	gone()
	p := w.start(fstest.MapFS{}) // makes it anew
	p.change()
	w.has("a")
	if len(w.maps) != 0 || !strings.Contains(strings.Join(w.events, " "), "Kept") {
		t.Errorf("records %v, events %q", w.maps, w.events)
	}

	// The same while it runs: an empty directory comes back.
	put(t, w.dir, "a.yaml", manifest("a"))
	p.change()
	gone()
	p.change()
	if got := p.states(); !strings.Contains(got, ". Failed (open manifests directory") {
		t.Errorf("status %q", got)
	}
	if err := os.Mkdir(w.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p.retry()
	w.has("a")

	// And the very same file comes back, as after a remount: it is followed again.
	put(t, w.dir, "a.yaml", manifest("a"))
	p.change()
	aside := w.dir + ".aside"
	if err := os.Rename(w.dir, aside); err != nil {
		t.Fatal(err)
	}
	p.change()
	if err := os.Rename(aside, w.dir); err != nil {
		t.Fatal(err)
	}
	p.retry()
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	p.change()
	w.has()
}

func TestQuarrelIsSolvedByAChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.start(fstest.MapFS{})
	put(t, w.dir, "a.yaml", manifest("x", "a"))
	put(t, w.dir, "b.yaml", manifest("x", "b"))
	p.change()
	w.has("a", "b", "x")
	if got := p.states(); !strings.Contains(got, "b.yaml Failed (ConfigMap x is already in directory:a.yaml") {
		t.Errorf("status %q", got)
	}
	if w.objects["x"] != "directory:a.yaml" {
		t.Errorf("x belongs to %s", w.objects["x"])
	}
	p.idle()
	put(t, w.dir, "a.yaml", manifest("a"))
	p.change()
	if w.objects["x"] != "directory:b.yaml" || p.states() != "a.yaml Applied, b.yaml Applied" {
		t.Errorf("x belongs to %s, status %q", w.objects["x"], p.states())
	}
	w.has("a", "b", "x")
}

func TestClusterNotReachable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.failing("records", "connection refused")
	put(t, w.dir, "a.yaml", manifest("a"))
	p := w.start(fstest.MapFS{"core.yaml": {Data: []byte(manifest("core"))}})
	if p.change() {
		t.Error("served although the cluster cannot be reached")
	}
	if got, want := p.states(), "embedded:(all) Failed (list the records of manifests: connection refused)"; got != want {
		t.Errorf("status %q, want %q", got, want)
	}
	w.failing("records", "")
	p.retry()
	w.has("a", "core")
	if got, want := p.states(), "embedded:core.yaml Applied, a.yaml Applied"; got != want {
		t.Errorf("status %q, want %q", got, want)
	}
}

// A packaged object that the apiserver refuses for good must not keep the rest
// of the cluster from starting.
func TestRefusedFileDoesNotHoldUpReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	embedded := fstest.MapFS{"core.yaml": {Data: []byte(manifest("core"))}}
	w.failing("core", "apiserver is starting")
	if w.start(embedded).change() {
		t.Error("ready although the apiserver has not answered yet")
	}
	w.fail["core"] = apierrors.NewInvalid(schema.GroupKind{Kind: "ConfigMap"}, "core", nil)
	if !w.start(embedded).change() {
		t.Error("not ready")
	}
}
