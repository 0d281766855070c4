package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	upstream "k8s.io/kubernetes/test/utils/image"
)

func headers(t *testing.T, layer v1.Layer) map[string]*tar.Header {
	t.Helper()
	r, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // reads memory
	got := map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = h
	}
}

func TestPack(t *testing.T) {
	t.Parallel()
	entries := []entry{
		{path: "bin/nnp", mode: 0o755 | setuid | setgid, data: []byte("\x7fELF")},
		{path: "alias", mode: 0o777, link: "bin/nnp"},
		{path: "tmp/", mode: 0o777 | sticky},
	}
	layer, err := pack(entries)
	if err != nil {
		t.Fatal(err)
	}
	got := headers(t, layer)
	for name, want := range map[string]tar.Header{
		"bin/nnp": {Typeflag: tar.TypeReg, Mode: 0o6755, Size: 4},
		"alias":   {Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "bin/nnp"},
		"tmp/":    {Typeflag: tar.TypeDir, Mode: 0o1777},
	} {
		h := got[name]
		if h == nil || h.Typeflag != want.Typeflag || h.Mode != want.Mode || h.Size != want.Size || h.Linkname != want.Linkname {
			t.Errorf("%s is %+v, want %+v", name, h, want)
		}
	}
	first, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	again, err := pack(entries)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := again.Digest(); err != nil || first != second {
		t.Errorf("the same entries gave %s and %s, %v", first, second, err)
	}
}

func TestTree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "sub/b"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := tree(dir)
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprint(got); text != fmt.Sprint([]entry{
		{path: "a", mode: 0o644, data: []byte("a")}, {path: "sub/b", mode: 0o644, data: []byte("sub/b")},
	}) {
		t.Errorf("tree is %s", text)
	}
	if _, err := tree(dir + ".missing"); err == nil {
		t.Error("a missing directory was accepted")
	}
}

func TestMirrored(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]string{
		"registry.k8s.io/e2e-test-images/agnhost:2.1": "10.0.0.1:5000/e2e-test-images/agnhost:2.1",
		"registry.k8s.io/pause:3":                     "10.0.0.1:5000/pause:3",
	} {
		got, err := mirrored(image, "10.0.0.1:5000")
		if err != nil || got.String() != want {
			t.Errorf("%s: %s, %v; want %s", image, got, err, want)
		}
	}
	if _, err := mirrored("busybox:1", "10.0.0.1:5000"); err == nil {
		t.Error("a name without a registry was accepted")
	}
}

// TestPush pulls back what was pushed, from a registry that listens.
func TestPush(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(registry.New())
	t.Cleanup(srv.Close)
	host := strings.TrimPrefix(srv.URL, "http://")
	im := image{id: upstream.Pause, base: empty.Image, files: []entry{{path: "pause", mode: 0o755, data: []byte("x")}},
		config: v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535", Env: []string{"A=b"}}}
	if err := push(context.Background(), im, host); err != nil {
		t.Fatal(err)
	}
	ref, err := mirrored(upstream.GetE2EImage(upstream.Pause), host)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cf.OS != "linux" || cf.Config.User != "65535:65535" || cf.Config.Entrypoint[0] != "/pause" ||
		fmt.Sprint(cf.Config.Env) != fmt.Sprint([]string{searchPath, "A=b"}) {
		t.Errorf("config is %+v", cf.Config)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("layers: %v, %v", layers, err)
	}
	if h := headers(t, layers[0])["pause"]; h == nil || h.Size != 1 {
		t.Errorf("the layer has %+v", h)
	}
}

// TestCatalogNamesWhatIsMissing: an input that was not built is told by its name.
func TestCatalogNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	err := run(context.Background(), inputs{bin: dir, debian: filepath.Join(dir, "debian.tar.gz"), busybox: filepath.Join(dir, "busybox.tar"), sources: dir},
		"127.0.0.1:0", &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "debian.tar.gz") {
		t.Errorf("missing layer: %v", err)
	}
}
