package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestBundle makes a bundle of an image that no registry has and of a pod's
// manifest, and installs it: the pod runs. A damaged one changes nothing.
func TestBundle(t *testing.T) {
	s := sharedSpace(t, 3*time.Minute)
	const work, file = "/root/bundle", "/root/bundle/site.bundle.tar"
	s.mustIn(s.ctx, t, node1, "mkdir", "-p", work)
	t.Cleanup(func() { s.ok(os.RemoveAll(s.path(t, node1, work))) })
	const ref = "10.99.0.1:5999/test/bundled:1"
	manifest := fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: web, namespace: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: %q, imagePullPolicy: Never}
`, s.name, ref)
	s.drop(t, node1, work+"/image.tar", lateImage(t, ref))
	s.drop(t, node1, work+"/web.yaml", []byte(manifest))
	limpet := func(args ...string) result {
		return s.in(s.ctx, node1, append([]string{"limpet", "bundle"}, args...)...)
	}
	mustSay := func(r result, code int, words ...string) {
		t.Helper()
		for _, w := range words {
			if r.code != code || !strings.Contains(r.text(), w) {
				t.Fatalf("exit %d, want %d with %q: %s", r.code, code, w, r.text())
			}
		}
	}
	mustSay(limpet("create", "--image", work+"/image.tar", "--manifest", work+"/web.yaml", "-o", file), 0, "1 images", "1 manifests", "not signed")
	mustSay(limpet("verify", file), 0, "complete and undamaged")
	mustSay(limpet("list", file), 0, ref, "web.yaml")

	whole := readFile(s, s.path(t, node1, file))
	damaged := append([]byte{}, whole...)
	damaged[len(damaged)/2] ^= 1
	s.drop(t, node1, work+"/damaged.tar", damaged)
	mustSay(limpet("install", work+"/damaged.tar"), 1, "damaged or changed")
	images := func() string { return s.mustIn(s.ctx, t, node1, "limpet", "ctr", "images", "ls", "name=="+ref) }
	if out := images(); strings.Contains(out, ref) {
		t.Fatalf("a damaged bundle brought an image: %s", out)
	}

	dir := dataDir + "/server/manifests/site"
	t.Cleanup(func() { s.ok(os.RemoveAll(s.path(t, node1, dir))) })
	r := limpet("install", file)
	t.Log(r.text())
	mustSay(r, 0, ref+": new", "web.yaml: new", " new blobs with ")
	await(s.ctx, t, s.pods(), "web", podReady)
	if out := images(); !strings.Contains(out, "io.cri-containerd.pinned=pinned") || !strings.Contains(out, "limpet.io/bundle=site") {
		t.Errorf("the image is not pinned: %s", out)
	}
	mustSay(limpet("install", file), 0, ref+": was there", "web.yaml: was there", "0 new blobs")

	// Another image on the same layers brings its manifest and configuration only.
	const second = "10.99.0.1:5999/test/bundled:2"
	s.drop(t, node1, work+"/image.tar", lateImage(t, second))
	mustSay(limpet("create", "--image", work+"/image.tar", "--name", "site", "-o", work+"/second.tar"), 0, "1 images")
	r = limpet("install", work+"/second.tar")
	t.Log(r.text())
	mustSay(r, 0, second+": new", "2 new blobs")

	// A bundle is an image archive, too.
	const third = "10.99.0.1:5999/test/bundled:3"
	s.drop(t, node1, work+"/image.tar", lateImage(t, third))
	mustSay(limpet("create", "--image", work+"/image.tar", "-o", work+"/third.tar"), 0, "1 images")
	archive := imagesDir + "/third-bundle.tar"
	t.Cleanup(func() { s.remove(t, node1, archive) })
	s.drop(t, node1, archive, readFile(s, s.path(t, node1, work+"/third.tar")))
	eventually(s.ctx, t, "the image of a bundle in the images directory", func() error {
		if out := s.mustIn(s.ctx, t, node1, "limpet", "ctr", "images", "ls", "-q"); !strings.Contains(out, third) {
			return fmt.Errorf("only %s", out)
		}
		return nil
	})
}

// TestBundleChart makes a bundle of a Helm chart with a definition, an object of it, and a
// hook, and of its image; installed, the chart's Deployment runs. No Helm is anywhere.
func TestBundleChart(t *testing.T) {
	s := sharedSpace(t, 3*time.Minute)
	const work, file, ref = "/root/chart", "/root/chart/till.bundle.tar", "10.99.0.1:5999/test/charted:1"
	t.Cleanup(func() { s.ok(os.RemoveAll(s.path(t, node1, work))) })
	s.ok(os.CopyFS(s.path(t, node1, work+"/pos"), os.DirFS(filepath.Join(env.repo, "internal/helmchart/testdata/pos"))))
	s.drop(t, node1, work+"/image.tar", lateImage(t, ref))
	s.drop(t, node1, work+"/values.yaml", []byte("image: {repository: 10.99.0.1:5999/test/charted}\nprinter: {enabled: false}\nmigrate: true\n"))
	create := func(more ...string) result {
		return s.in(s.ctx, node1, append([]string{"limpet", "bundle", "create", "--image", work + "/image.tar", "-o", file, "--chart", work + "/pos",
			"--values", work + "/values.yaml", "--set", "image.tag=1", "--release", "till", "--chart-namespace", s.name}, more...)...)
	}
	if r := create(); r.code != 1 || !strings.Contains(r.text(), "Job/till-migrate (pre-install,pre-upgrade)") {
		t.Fatalf("exit %d: %s", r.code, r.text())
	}
	if _, err := os.Stat(s.path(t, node1, file)); err == nil {
		t.Fatal("a refused chart leaves a bundle")
	}
	r := create("--hooks", "skip")
	t.Log(r.text())
	if r.code != 0 || !strings.Contains(r.text(), "left out") {
		t.Fatalf("exit %d: %s", r.code, r.text())
	}
	if r := s.in(s.ctx, node1, "limpet", "bundle", "list", file); !strings.Contains(r.stdout, "chart     pos 1.4.0+build.7: release till in namespace "+s.name) {
		t.Errorf("exit %d: %s", r.code, r.text())
	}
	dir := dataDir + "/server/manifests/till"
	t.Cleanup(func() { s.ok(os.RemoveAll(s.path(t, node1, dir))) })
	s.mustIn(s.ctx, t, node1, "limpet", "bundle", "install", file)
	s.selected(1, map[string]string{"app.kubernetes.io/instance": "till"})
	eventually(s.ctx, t, "the object of the chart's own kind", func() error {
		r := s.in(s.ctx, node1, "limpet", "kubectl", "-n", s.name, "get", "till", "first", "-o", "jsonpath={.spec.number}")
		if r.stdout != "9007199254740993" {
			return fmt.Errorf("exit %d: %s", r.code, r.text())
		}
		return nil
	})
	config, err := s.client.CoreV1().ConfigMaps(s.name).Get(s.ctx, "till-config", metav1.GetOptions{})
	s.ok(err)
	for key, want := range map[string]string{"policy": "true", "beta": "false", "own": "true"} {
		if config.Data[key] != want {
			t.Errorf("the chart was told %s of %s", config.Data[key], key)
		}
	}
}
