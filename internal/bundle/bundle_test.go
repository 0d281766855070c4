package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"aead.dev/minisign"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// testImage is an image for an architecture on a common base layer and two of
// its own.
func testImage(t *testing.T, base v1.Image, arch string) v1.Image {
	t.Helper()
	img, err := random.Image(20_000, 2)
	if err != nil {
		t.Fatal(err)
	}
	own, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	img, err = mutate.AppendLayers(base, own...)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

func baseImage(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(20_000, 1)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// testRegistry serves a/one:1 (an index for amd64 and arm64) and a/two:1 (amd64),
// which share a layer, and counts the blobs that are fetched.
func testRegistry(t *testing.T) (host string, blobs *atomic.Int32, fail *atomic.Int32) {
	t.Helper()
	blobs, fail = &atomic.Int32{}, &atomic.Int32{}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			if n := blobs.Add(1); fail.Load() > 0 && n > fail.Load() {
				http.Error(w, "the line is down", http.StatusNotFound)
				return
			}
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host = strings.TrimPrefix(server.URL, "http://")
	base := baseImage(t)
	ref := func(s string) name.Reference {
		r, err := name.ParseReference(host + s)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: testImage(t, base, "amd64"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: testImage(t, base, "arm64"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	if err := remote.WriteIndex(ref("/a/one:1"), index); err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref("/a/two:1"), testImage(t, base, "amd64")); err != nil {
		t.Fatal(err)
	}
	blobs.Store(0)
	return host, blobs, fail
}

func manifestFile(t *testing.T, dir, image string) string {
	t.Helper()
	file := filepath.Join(dir, "pos.yaml")
	text := "apiVersion: v1\nkind: Pod\nmetadata: {name: pos}\nspec:\n  containers:\n  - {name: a, image: " + image + "}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func open(t *testing.T, file, key string) (*Bundle, error) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return Open(f, key)
}

func TestCreateFromRegistry(t *testing.T) {
	t.Parallel()
	host, blobs, fail := testRegistry(t)
	dir := t.TempDir()
	recipe := Recipe{
		Images: []string{host + "/a/one:1"}, Manifests: []string{manifestFile(t, dir, host+"/a/two:1")},
		ImagesFromManifests: true, Platform: "linux/amd64", Output: filepath.Join(dir, "Site-7.bundle.tar"),
	}
	fail.Store(4)
	if _, err := Create(t.Context(), recipe); err == nil {
		t.Fatal("a creation without a registry succeeds")
	}
	if _, err := os.Stat(recipe.Output); err == nil {
		t.Fatal("a failed creation leaves a bundle")
	}
	fail.Store(0)
	index, err := Create(t.Context(), recipe)
	if err != nil {
		t.Fatal(err)
	}
	// Two configurations, one common and four own layers: each fetched once, but for
	// the one that failed.
	if got := blobs.Load(); got != 2+1+4+1 {
		t.Errorf("%d blobs were fetched", got)
	}
	if index.Name != "site-7" || len(index.Images) != 2 || len(index.Manifests()) != 1 || len(index.Files) != 2+1+4+3+1+2 {
		t.Errorf("got %+v", index)
	}
	first, err := os.ReadFile(recipe.Output)
	if err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left behind: %v", entries)
	}
	if _, err = Create(t.Context(), recipe); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(recipe.Output); err != nil || !bytes.Equal(first, again) {
		t.Errorf("the same input gives other bytes: %v", err)
	}
	b, err := open(t, recipe.Output, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(t.Context(), nil); err != nil {
		t.Error(err)
	}
	recipe.Platform = "linux/riscv64"
	if _, err := Create(t.Context(), recipe); err == nil || !strings.Contains(err.Error(), "riscv64") {
		t.Errorf("got %v", err)
	}
}

// A bundle is an OCI layout, so it can be the source of another one.
func TestCreateFromArchives(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	saved := filepath.Join(dir, "saved.tar")
	tag, err := name.NewTag("example.com/saved:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(saved, tag, testImage(t, baseImage(t), "amd64")); err != nil {
		t.Fatal(err)
	}
	one, two := filepath.Join(dir, "one.tar"), filepath.Join(dir, "two.tar")
	recipe := Recipe{Images: []string{saved}, Platform: "linux/amd64", Name: "same", Output: one}
	index, err := Create(t.Context(), recipe)
	if err != nil {
		t.Fatal(err)
	}
	if len(index.Images) != 1 || index.Images[0].Name != "example.com/saved:1" {
		t.Errorf("got %+v", index.Images)
	}
	recipe.Images, recipe.Output = []string{one}, two
	if _, err := Create(t.Context(), recipe); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(one)
	b, _ := os.ReadFile(two)
	if len(a) == 0 || !bytes.Equal(a, b) {
		t.Error("a bundle of a bundle is another one")
	}
	recipe.Images, recipe.Output = []string{"nosuch.tar"}, filepath.Join(dir, "none.tar")
	if _, err := Create(t.Context(), recipe); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an archive that is not there: %v", err)
	}
	if _, err := os.Stat(recipe.Output + ".partial"); err == nil {
		t.Error("an empty directory is left")
	}
	recipe.Images, recipe.Platform = []string{saved}, "linux/arm64"
	if _, err := Create(t.Context(), recipe); err == nil || !strings.Contains(err.Error(), "linux/amd64") {
		t.Errorf("an image for another platform: %v", err)
	}
}

func newKey(t *testing.T, dir string) (file, public string) {
	t.Helper()
	pub, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := private.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "site.key")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, pub.String()
}

func TestSignature(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key, public := newKey(t, dir)
	_, other := newKey(t, t.TempDir())
	recipe := Recipe{Manifests: []string{manifestFile(t, dir, "a:1")}, Output: filepath.Join(dir, "s.tar")}
	if _, err := Create(t.Context(), recipe); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, recipe.Output, public); !errors.Is(err, ErrSignature) {
		t.Errorf("not signed: %v", err)
	}
	recipe.SigningKey = key
	if _, err := Create(t.Context(), recipe); err != nil {
		t.Fatal(err)
	}
	if b, err := open(t, recipe.Output, public); err != nil || !b.Signed {
		t.Errorf("signed: %v", err)
	}
	if _, err := open(t, recipe.Output, other); !errors.Is(err, ErrSignature) {
		t.Errorf("signed by another: %v", err)
	}
	if _, err := open(t, recipe.Output, "nonsense"); err == nil || errors.Is(err, ErrSignature) {
		t.Errorf("no key: %v", err)
	}
}

// TestChangedBytes: whatever is changed, the bundle is refused, or what it holds
// is the same (spaces and zeros between the files mean nothing).
func TestChangedBytes(t *testing.T) {
	t.Parallel()
	data := smallBundle(t)
	good, err := read(bytes.NewReader(data), int64(len(data)), "")
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for n := range data {
		bad := bytes.Clone(data)
		bad[n] ^= 1
		b, err := read(bytes.NewReader(bad), int64(len(bad)), "")
		if err == nil {
			err = b.Verify(t.Context(), nil)
		}
		switch {
		case err != nil:
			refused++
		case b.Digest != good.Digest:
			t.Errorf("byte %d: another index is taken for whole", n)
		default:
			for _, f := range good.files {
				if int64(n) >= f.offset && int64(n) < f.offset+f.Size {
					t.Errorf("byte %d of %s is not checked", n, f.Path)
				}
			}
		}
	}
	if refused < 1000 {
		t.Errorf("only %d of %d changes are refused", refused, len(data))
	}
	for _, n := range []int{0, 511, 512, len(data) / 2, len(data) - 1} {
		if _, err := read(bytes.NewReader(data[:n]), int64(n), ""); !errors.Is(err, ErrFormat) {
			t.Errorf("cut off at %d: %v", n, err)
		}
	}
	more := append(bytes.Clone(data), 0)
	if _, err := read(bytes.NewReader(more), int64(len(more)), ""); !errors.Is(err, ErrFormat) {
		t.Errorf("something behind the end: %v", err)
	}
}

// A bundle that is right but for its kind of entry: what would be unpacked as a
// link is refused.
func TestLinks(t *testing.T) {
	t.Parallel()
	for _, kind := range []byte{tar.TypeSymlink, tar.TypeLink, tar.TypeDir, tar.TypeFifo, tar.TypeXGlobalHeader} {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		header := tar.Header{Typeflag: kind, Name: "sha256sums", Linkname: "/etc/shadow"}
		if kind == tar.TypeXGlobalHeader {
			header = tar.Header{Typeflag: kind, PAXRecords: map[string]string{"comment": "x"}}
		}
		if err := errors.Join(w.WriteHeader(&header), w.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := read(bytes.NewReader(out.Bytes()), int64(out.Len()), ""); !errors.Is(err, ErrFormat) {
			t.Errorf("type %c: %v", kind, err)
		}
	}
}

// An image that lacks a layer is found before anything is installed.
func TestIncompleteImage(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "b.tar")
	manifest := []byte(`{"schemaVersion":2,"config":{"digest":"sha256:` + strings.Repeat("a", 64) + `","size":2},"layers":[]}`)
	sum := memory("", manifest).SHA256
	img := Image{Name: "docker.io/library/a:1", MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: "sha256:" + sum, Size: int64(len(manifest))}
	x := Index{Name: "b", Platform: "linux/amd64", Images: []Image{img}}
	if err := write(filepath.Dir(file), file, x, []part{memory(blobDir+sum, manifest)}, nil); err != nil {
		t.Fatal(err)
	}
	b, err := open(t, file, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Verify(t.Context(), nil); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "missing") {
		t.Errorf("got %v", err)
	}
}

func smallBundle(t testing.TB) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "b.tar")
	manifest := memory(manifestDir+"a.yaml", []byte("apiVersion: v1\nkind: Pod\n"))
	if err := write(filepath.Dir(file), file, Index{Name: "b", Platform: "linux/amd64", Images: []Image{}}, []part{manifest}, nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestHostilePaths(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("a", 64)
	for _, path := range []string{
		"../x", "/etc/passwd", "manifests/../../x.yaml", "manifests/a/b.yaml", "manifests/.hidden.yaml", "manifests/a.sh",
		"blobs/sha256/" + strings.Repeat("b", 64), "blobs/sha256/../" + sum, "blobs/sha512/" + sum, "", "x", "bundle.json", "manifests/a\x00.yaml",
	} {
		if err := (File{Path: path, SHA256: sum}).check(); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", path, err)
		}
	}
	for _, f := range []File{
		{Path: "manifests/a.yaml", SHA256: sum, Size: maxManifest + 1},
		{Path: "manifests/a.yaml", SHA256: sum, Size: -1},
		{Path: "manifests/a.yaml", SHA256: strings.ToUpper(sum)},
		{Path: blobDir + sum, SHA256: sum, Size: maxBlob + 1},
	} {
		if err := f.check(); !errors.Is(err, ErrFormat) {
			t.Errorf("%+v: %v", f, err)
		}
	}
	for _, name := range []string{"", "..", "a/b", "A", ".a", "a.", strings.Repeat("a", 64)} {
		if err := (Index{Name: name, Platform: "linux/amd64"}).check(); !errors.Is(err, ErrFormat) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func TestImagesOf(t *testing.T) {
	t.Parallel()
	content, err := contentOf([]byte(`# nothing
---
apiVersion: apps/v1
kind: Deployment
image: not-this:1
spec: {template: {spec: {initContainers: [{image: b:1}], containers: [{image: a:1}, {image: a:1}]}}}
---
apiVersion: v1
kind: List
items: [{kind: Pod, spec: {containers: [{image: c:1}]}}]
`))
	if err != nil || strings.Join(content.images, " ") != "a:1 b:1 c:1" {
		t.Errorf("got %q, %v", content.images, err)
	}
	for _, bad := range []string{"kind: Pod", "apiVersion: v1", "- a", "{", "just text"} {
		if _, err := contentOf([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a manifest", bad)
		}
	}
}

// TestManifests are put where the server looks, and only there.
func TestManifests(t *testing.T) {
	t.Parallel()
	data, dir := smallBundle(t), t.TempDir()
	b, err := read(bytes.NewReader(data), int64(len(data)), "")
	if err != nil {
		t.Fatal(err)
	}
	install := func(dir string) Result {
		t.Helper()
		result, err := b.Install(context.Background(), Target{ManifestsDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	if r := install(dir); len(r.NewManifests) != 1 {
		t.Errorf("got %+v", r)
	}
	old := filepath.Join(dir, "b", "old.yaml")
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := install(dir); len(r.SameManifests) != 1 || len(r.NewManifests) != 0 || len(r.StaleManifests) != 1 || r.StaleManifests[0] != old {
		t.Errorf("got %+v", r)
	}
	if r := install(filepath.Join(dir, "none")); len(r.SkippedManifests) != 1 {
		t.Errorf("got %+v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, "none")); err == nil {
		t.Error("it makes a server's directory where there is no server")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(smallBundle(f))
	f.Add([]byte("sha256sums"))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := read(bytes.NewReader(data), int64(len(data)), "")
		if err != nil {
			return
		}
		if b.Index.Size() > int64(len(data)) {
			t.Fatalf("%d bytes are said to hold %d", len(data), b.Index.Size())
		}
		_ = b.Verify(t.Context(), nil) // must only not panic
		for _, name := range b.Index.Manifests() {
			if filepath.Base(name) != name {
				t.Fatalf("manifest %q leads elsewhere", name)
			}
		}
	})
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(`{"version":1,"name":"b","platform":"linux/amd64","images":[],"files":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := parseIndex(data)
		if err == nil && x.check() != nil {
			t.Fatal("an unchecked index")
		}
	})
}
