package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpetio/limpet/internal/helmchart"
)

const testChart = "../helmchart/testdata/pos"

// TestChart: a chart becomes a manifest, its images come along, and the index says
// where the manifest is from.
func TestChart(t *testing.T) {
	t.Parallel()
	host, _, _ := testRegistry(t)
	dir := t.TempDir()
	var notes []string
	set := []string{"image.repository=" + host + "/a/two", "image.tag=1", "random=true"}
	recipe := Recipe{
		Charts: []ChartSource{
			{Source: testChart, Options: helmchart.Options{Namespace: "shop", Set: set}},
			{Source: testChart, Options: helmchart.Options{Release: "second", Namespace: "shop", Set: []string{"image.repository=" + host + "/a/one", "image.tag=1"}}},
		},
		ImagesFromManifests: true, Platform: "linux/amd64", Output: filepath.Join(dir, "c.tar"),
		Note: func(text string) { notes = append(notes, text) },
	}
	index, err := Create(t.Context(), recipe)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(index.Manifests(), " ") != "pos.yaml second.yaml" || len(index.Images) != 2 {
		t.Errorf("got %+v", index)
	}
	want := Chart{Name: "pos", Version: "1.4.0+build.7", AppVersion: "2026.11", Release: "pos", Namespace: "shop", Manifest: "pos.yaml"}
	if len(index.Charts) != 2 || index.Charts[0] != want {
		t.Errorf("got %+v", index.Charts)
	}
	if all := strings.Join(notes, "\n"); !strings.Contains(all, "Pod/pos-ping (test)") || !strings.Contains(all, "something else each time") {
		t.Errorf("told %q", all)
	}
	b, err := open(t, recipe.Output, "")
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, "manifests")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	var result Result
	if err := b.putManifests(target, &result); err != nil {
		t.Fatal(err)
	}
	namespaces := 0
	for _, name := range []string{"pos.yaml", "second.yaml"} {
		data, err := os.ReadFile(filepath.Join(target, "c", name))
		if err != nil {
			t.Fatal(err)
		}
		namespaces += strings.Count(string(data), "kind: Namespace\n")
	}
	if namespaces != 1 {
		t.Errorf("the namespace is there %d times", namespaces)
	}
}

// TestBadCharts leave nothing behind.
func TestBadCharts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pos := filepath.Join(dir, "pos.yaml")
	if err := os.WriteFile(pos, []byte("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, recipe := range map[string]Recipe{
		"helm pull":       {Charts: []ChartSource{{Source: "stable/pos"}}},
		"not a chart":     {Charts: []ChartSource{{Source: pos}}},
		"hooks":           {Charts: []ChartSource{{Source: testChart, Options: helmchart.Options{Set: []string{"migrate=true"}}}}},
		"the same name":   {Charts: []ChartSource{{Source: testChart}}, Manifests: []string{pos}},
		"registry client": {Charts: []ChartSource{{Source: "oci://127.0.0.1:1/a:1"}}},
	} {
		recipe.Output = filepath.Join(dir, "bad.tar")
		_, err := Create(t.Context(), recipe)
		if err == nil || !strings.Contains(err.Error(), want) && want != "registry client" {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// TestHostileCharts: what the index says of charts is shown to people.
func TestHostileCharts(t *testing.T) {
	t.Parallel()
	good := Chart{Name: "pos", Version: "1.0.0", Release: "pos", Namespace: "default", Manifest: "a.yaml", Digest: "sha256:" + strings.Repeat("a", 64)}
	check := func(charts ...Chart) error {
		file := File{Path: "manifests/a.yaml", SHA256: strings.Repeat("a", 64)}
		return Index{Name: "b", Platform: "linux/amd64", Files: []File{file}, Charts: charts}.check()
	}
	if err := check(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Chart){
		"name":       func(c *Chart) { c.Name = "\x1b[2J" },
		"version":    func(c *Chart) { c.Version = "1\n2" },
		"no version": func(c *Chart) { c.Version = "" },
		"app":        func(c *Chart) { c.AppVersion = "\u009b2J" },
		"digest":     func(c *Chart) { c.Digest = "sha256:x" },
		"release":    func(c *Chart) { c.Release = "../x" },
		"namespace":  func(c *Chart) { c.Namespace = "" },
		"manifest":   func(c *Chart) { c.Manifest = "b.yaml" },
	} {
		bad := good
		change(&bad)
		if err := check(bad); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := check(good, good); !errors.Is(err, ErrFormat) {
		t.Errorf("twice: %v", err)
	}
}
