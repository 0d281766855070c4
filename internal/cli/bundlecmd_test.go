package cli

import (
	"context"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/limpetio/limpet/internal/bundle"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/helmchart"
)

// bundles records what it was asked to do.
type bundles struct {
	dataDir string
	recipe  bundle.Recipe
	done    []string
}

func (b *bundles) Create(_ context.Context, r bundle.Recipe) error { b.recipe = r; return nil }
func (b *bundles) Verify(_ context.Context, file, key string) error {
	b.done = append(b.done, "verify", file, key)
	return nil
}
func (b *bundles) List(_ context.Context, file, key string, asJSON bool) error {
	b.done = append(b.done, "list", file, key)
	if asJSON {
		b.done = append(b.done, "json")
	}
	return nil
}
func (b *bundles) Install(_ context.Context, file, key string) error {
	b.done = append(b.done, "install", file, key)
	return nil
}

func bundleRun(t *testing.T, args ...string) (*bundles, *run, int) {
	t.Helper()
	b, r := &bundles{}, newRun(t)
	r.app.Actions.Bundle = func(_ io.Writer, cfg config.Server) BundleActions { b.dataDir = cfg.DataDir; return b }
	return b, r, r.run(append([]string{"bundle"}, args...)...)
}

func TestBundleCommands(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][]string{
		"verify f.tar":                     {"verify", "f.tar", ""},
		"verify f.tar --public-key K":      {"verify", "f.tar", "K"},
		"list f.tar -o json":               {"list", "f.tar", "", "json"},
		"install --public-key K f.tar":     {"install", "f.tar", "K"},
		"install --data-dir /data/l f.tar": {"install", "f.tar", ""},
	} {
		b, r, code := bundleRun(t, strings.Fields(line)...)
		if code != ExitOK || !reflect.DeepEqual(b.done, want) {
			t.Errorf("%s: exit %d, %q: %s", line, code, b.done, &r.stderr)
		}
		if strings.Contains(line, "--data-dir") && b.dataDir != "/data/l" {
			t.Errorf("%s: data directory %q", line, b.dataDir)
		}
	}
	for _, line := range []string{"verify", "verify a b", "list f -o xml", "create", "create -o f", "create --image a", "instal f",
		"create -o f --values v --chart c", "create -o f --chart c --hooks run", "create -o f --chart c --release a --release b", "create -o f --chart="} {
		if b, r, code := bundleRun(t, strings.Fields(line)...); code != ExitUsage || b.done != nil {
			t.Errorf("%s: exit %d, %q: %s", line, code, b.done, &r.stderr)
		}
	}
}

func TestBundleCreate(t *testing.T) {
	t.Parallel()
	b, r, code := bundleRun(t, strings.Fields(
		"create --image a:1 --image ./b.tar --manifest m.yaml --images-from-manifests --platform linux/arm64 --name n --signing-key k -o f.tar")...)
	want := bundle.Recipe{
		Images: []string{"a:1", "./b.tar"}, Manifests: []string{"m.yaml"}, ImagesFromManifests: true,
		Platform: "linux/arm64", Name: "n", Output: "f.tar", SigningKey: "k",
	}
	if code != ExitOK || !reflect.DeepEqual(b.recipe, want) {
		t.Errorf("exit %d, %+v: %s", code, b.recipe, &r.stderr)
	}
	b, r, code = bundleRun(t, strings.Fields(
		"create --chart ./one --values a.yaml --values b.yaml --set x=1 -o f.tar --chart oci://h/two:1 --release t --chart-namespace n --hooks skip")...)
	charts := []bundle.ChartSource{
		{Source: "./one", Options: helmchart.Options{ValueFiles: []string{"a.yaml", "b.yaml"}, Set: []string{"x=1"}}},
		{Source: "oci://h/two:1", Options: helmchart.Options{Release: "t", Namespace: "n", Hooks: helmchart.SkipHooks}},
	}
	if code != ExitOK || !reflect.DeepEqual(b.recipe.Charts, charts) {
		t.Errorf("exit %d, %+v: %s", code, b.recipe.Charts, &r.stderr)
	}
}
