package helmchart

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
)

const testVersion = "v1.37.2+limpet.0.1"

func rendered(t *testing.T, dir string, o Options) (Rendered, error) {
	t.Helper()
	c, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	o.KubernetesVersion = testVersion
	o.APIVersions = []string{"v1", "policy/v1", "policy/v1/PodDisruptionBudget"}
	return c.Render(t.Context(), o)
}

func TestRender(t *testing.T) {
	t.Parallel()
	values := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(values, []byte("greeting: from a file\nreplicas: 2\nclusterRole: true\nimage: {tag: none}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := rendered(t, "testdata/pos", Options{
		Release: "till", Namespace: "shop", ValueFiles: []string{values}, Set: []string{"image.tag=9,printer.paper=A7"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/pos.golden.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(r.Manifest); got != string(want) {
		t.Errorf("got:\n%s", got)
	}
	if strings.Join(r.LeftOut, " ") != "Pod/till-ping (test)" {
		t.Errorf("left out: %q", r.LeftOut)
	}
	r.Manifest, r.LeftOut = nil, nil
	if r.Name != "pos" || r.Version != "1.4.0+build.7" || r.AppVersion != "2026.11" || r.Digest != "" || r.Release != "till" || r.Namespace != "shop" || r.Varies {
		t.Errorf("got %+v", r)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	r, err := rendered(t, "testdata/pos", Options{Set: []string{"printer.enabled=false"}})
	if err != nil {
		t.Fatal(err)
	}
	got := string(r.Manifest)
	if r.Release != "pos" || r.Namespace != "default" || strings.Contains(got, "kind: Namespace") || strings.Contains(got, "printer") {
		t.Errorf("release %s in %s:\n%s", r.Release, r.Namespace, got)
	}
	if !strings.Contains(got, "image: ghcr.io/acme/pos:2026.11\n") || strings.Count(got, "namespace: default\n") != 3 {
		t.Errorf("got:\n%s", got)
	}
}

func TestHooks(t *testing.T) {
	t.Parallel()
	set := []string{"migrate=true"}
	if _, err := rendered(t, "testdata/pos", Options{Set: set}); err == nil || !strings.Contains(err.Error(), "Job/pos-migrate (pre-install,pre-upgrade)") {
		t.Errorf("hooks are not refused: %v", err)
	}
	r, err := rendered(t, "testdata/pos", Options{Set: set, Hooks: PlainHooks})
	if err != nil || !strings.Contains(string(r.Manifest), "name: pos-migrate\n") || len(r.LeftOut) != 1 {
		t.Errorf("plain: left out %q, %v", r.LeftOut, err)
	}
	r, err = rendered(t, "testdata/pos", Options{Set: set, Hooks: SkipHooks})
	if err != nil || strings.Contains(string(r.Manifest), "migrate") || len(r.LeftOut) != 2 {
		t.Errorf("skip: left out %q, %v", r.LeftOut, err)
	}
	if _, err := rendered(t, "testdata/pos", Options{Hooks: "run"}); err == nil {
		t.Error("a word of no meaning is taken")
	}
}

func TestVaries(t *testing.T) {
	t.Parallel()
	if r, err := rendered(t, "testdata/pos", Options{Set: []string{"random=true"}}); err != nil || !r.Varies {
		t.Errorf("a random password is not noticed: %v", err)
	}
}

// TestRefused: what is wrong with a chart or its values is told where it is.
func TestRefused(t *testing.T) {
	t.Parallel()
	chart := func(files map[string]string) string {
		dir := t.TempDir()
		if _, ok := files["Chart.yaml"]; !ok {
			files["Chart.yaml"] = "apiVersion: v2\nname: a\nversion: 1.0.0\n"
		}
		for name, text := range files {
			file := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	meta := "apiVersion: v2\nname: a\nversion: 1.0.0\n"
	config := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
	for name, c := range map[string]struct {
		dir  string
		o    Options
		want string
	}{
		"no chart":            {chart(map[string]string{"Chart.yaml": "- a\n"}), Options{}, "not a chart"},
		"no version":          {chart(map[string]string{"Chart.yaml": "apiVersion: v2\nname: a\n"}), Options{}, "version"},
		"library":             {chart(map[string]string{"Chart.yaml": meta + "type: library\n"}), Options{}, "only applications"},
		"newer Kubernetes":    {chart(map[string]string{"Chart.yaml": meta + "kubeVersion: '>=2.0.0'\n"}), Options{}, "wants Kubernetes >=2.0.0, and this limpet is v1.37.2"},
		"no dependency":       {chart(map[string]string{"Chart.yaml": meta + "dependencies: [{name: db, version: '1', repository: 'https://x'}]\n"}), Options{}, "not in charts/: db"},
		"syntax":              {chart(map[string]string{"templates/a.yaml": "a: 1\n\nb: {{ if }}\n"}), Options{}, "a/templates/a.yaml:3"},
		"failing function":    {chart(map[string]string{"templates/a.yaml": "a: 1\nb: {{ fail \"not so\" }}\n"}), Options{}, "a/templates/a.yaml:2:6): not so"},
		"no such field":       {chart(map[string]string{"templates/a.yaml": "{{ .Values.a.b.c }}\n"}), Options{}, "a/templates/a.yaml:1"},
		"not YAML":            {chart(map[string]string{"templates/a.yaml": "a: [\n"}), Options{}, "a/templates/a.yaml, document 1"},
		"a key twice":         {chart(map[string]string{"templates/a.yaml": config + "kind: Secret\n"}), Options{}, `key "kind" already set`},
		"no object":           {chart(map[string]string{"templates/a.yaml": "hello\n"}), Options{}, "no Kubernetes object"},
		"no kind":             {chart(map[string]string{"templates/a.yaml": "apiVersion: v1\n"}), Options{}, "no kind"},
		"no name":             {chart(map[string]string{"templates/a.yaml": "apiVersion: v1\nkind: Pod\n"}), Options{}, "no metadata.name"},
		"object twice":        {chart(map[string]string{"templates/a.yaml": config, "templates/b.yaml": config}), Options{}, "in a/templates/a.yaml and in a/templates/b.yaml"},
		"nothing":             {chart(map[string]string{"templates/a.yaml": "# {{ .Chart.Name }}\n"}), Options{}, "nothing comes out"},
		"endless":             {chart(map[string]string{"templates/a.yaml": `{{ define "a" }}{{ include "a" . }}{{ end }}{{ include "a" . }}`}), Options{}, "nested reference"},
		"environment":         {chart(map[string]string{"templates/a.yaml": "a: {{ env \"HOME\" }}\n"}), Options{}, `function "env" not defined`},
		"odd name":            {chart(map[string]string{"Chart.yaml": "apiVersion: v2\nname: 'a b'\nversion: 1.0.0\n"}), Options{}, "name"},
		"missing value":       {"testdata/pos", Options{Set: []string{"greeting="}}, "greeting must be set"},
		"lookup":              {"testdata/pos", Options{Set: []string{"lookup=true"}}, "asks the cluster for a Secret default/pos"},
		"against the schema":  {"testdata/pos", Options{Set: []string{"replicas=-1"}}, "replicas"},
		"bad release":         {"testdata/pos", Options{Release: "A_b"}, "name of a release"},
		"bad namespace":       {"testdata/pos", Options{Namespace: "a/b"}, "name of a namespace"},
		"bad setting":         {"testdata/pos", Options{Set: []string{"a"}}, `setting "a"`},
		"no values":           {"testdata/pos", Options{ValueFiles: []string{"testdata/none"}}, "no such file"},
		"values of the wrong": {"testdata/pos", Options{ValueFiles: []string{"testdata/pos/files.txt"}}, "values testdata/pos/files.txt"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if r, err := rendered(t, c.dir, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q\n%s", err, c.want, r.Manifest)
			}
		})
	}
}

func TestLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/pos")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("files.txt", filepath.Join(dir, "inside")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err != nil {
		t.Errorf("a link within the chart: %v", err)
	}
	for _, target := range []string{"/etc/passwd", "..", "templates"} {
		link := filepath.Join(dir, "link")
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "helm package") {
			t.Errorf("a link to %s: %v", target, err)
		}
		if err := os.Remove(link); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Load(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// packed makes a packaged chart; a name that ends in / is a directory, one with
// -> a link.
func packed(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	zip := gzip.NewWriter(&out)
	w := tar.NewWriter(zip)
	for name, text := range files {
		header := tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(text)), Mode: 0o644}
		if at, target, ok := strings.Cut(name, "->"); ok {
			header = tar.Header{Name: at, Linkname: target, Typeflag: tar.TypeSymlink}
		}
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// packedPos is testdata/pos as helm package would have it.
func packedPos(t testing.TB) []byte {
	t.Helper()
	files := map[string]string{}
	err := fs.WalkDir(os.DirFS("testdata/pos"), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, ".bak") {
			return err
		}
		data, err := os.ReadFile(filepath.Join("testdata/pos", path))
		files["pos/"+path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return packed(t, files)
}

func TestPacked(t *testing.T) {
	t.Parallel()
	data := packedPos(t)
	file := filepath.Join(t.TempDir(), "pos-1.4.0.tgz")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	from, err := rendered(t, file, Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := rendered(t, "testdata/pos", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(from.Manifest, dir.Manifest) || len(from.Digest) != len("sha256:")+64 {
		t.Errorf("digest %s, packed:\n%s\nnot packed:\n%s", from.Digest, from.Manifest, dir.Manifest)
	}
	meta := "apiVersion: v2\nname: a\nversion: 1.0.0\n"
	nested := string(packed(t, map[string]string{"b/Chart.yaml": "apiVersion: v2\nname: b\nversion: 1.0.0\n", "b/zeros": strings.Repeat("\x00", maxChart/2)}))
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"no Chart.yaml":     {map[string]string{"a/values.yaml": "a: 1\n"}, "not a chart"},
		"out of the chart":  {map[string]string{"a/Chart.yaml": meta, "a/../../../etc/x": "x"}, "not a chart"},
		"absolute":          {map[string]string{"a/Chart.yaml": meta, "//etc/passwd": "x"}, "not a chart"},
		"a link":            {map[string]string{"a/Chart.yaml": meta, "a/x->/etc/passwd": ""}, "not a regular file"},
		"a bomb":            {map[string]string{"a/Chart.yaml": meta, "a/x": strings.Repeat("\x00", maxChart)}, "too large"},
		"bombs in the hold": {map[string]string{"a/Chart.yaml": meta, "a/charts/b.tgz": nested, "a/charts/c.tgz": nested}, "too large"},
	} {
		c0, err := unpack(packed(t, c.files))
		if err == nil {
			_, err = c0.Render(t.Context(), Options{KubernetesVersion: testVersion})
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	deep := packed(t, map[string]string{"a/Chart.yaml": meta})
	for range maxNested + 1 {
		deep = packed(t, map[string]string{"a/Chart.yaml": meta, "a/charts/a.tgz": string(deep)})
	}
	if _, err := unpack(deep); !errors.Is(err, errTooLarge) {
		t.Errorf("charts in charts in charts: %v", err)
	}
	for _, data := range [][]byte{nil, []byte("a: 1\n"), data[:len(data)/2], {0x1f, 0x8b}} {
		if _, err := unpack(data); err == nil || !strings.Contains(err.Error(), "not a chart") {
			t.Errorf("%d bytes: %v", len(data), err)
		}
	}
}

func TestPull(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	push := func(ref string) name.Reference {
		t.Helper()
		r, err := name.ParseReference(host + ref)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	image := mutate.ConfigMediaType(empty.Image, "application/vnd.cncf.helm.config.v1+json")
	image, err := mutate.AppendLayers(image, static.NewLayer(packedPos(t), contentType))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(push("/charts/pos:1.4.0_build.7"), image); err != nil {
		t.Fatal(err)
	}
	other, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(push("/charts/image:1"), other); err != nil {
		t.Fatal(err)
	}
	c, err := Pull(t.Context(), "oci://"+host+"/charts/pos:1.4.0+build.7")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := c.Render(t.Context(), Options{KubernetesVersion: testVersion}); err != nil || r.Name != "pos" || r.Digest == "" {
		t.Errorf("%s %s, %v", r.Name, r.Digest, err)
	}
	for ref, want := range map[string]string{
		"oci://" + host + "/charts/pos":     "a version is needed",
		"oci://" + host + "/charts/pos:2":   "MANIFEST_UNKNOWN",
		"oci://" + host + "/charts/image:1": "is not a chart",
		"https://" + host + "/charts/pos:1": "begins with oci://",
		"oci://UPPER/a:1":                   "",
	} {
		if _, err := Pull(t.Context(), ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(packedPos(f))
	f.Add(packed(f, map[string]string{"a/Chart.yaml": "apiVersion: v2\nname: a\nversion: 1.0.0\n", "a/templates/a.yaml": "{{ .Values }}"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := unpack(data)
		if err != nil {
			return
		}
		for _, file := range c.files {
			if !filepath.IsLocal(file.Name) {
				t.Errorf("the file %q leads out of the chart", file.Name)
			}
		}
	})
}

func FuzzObjectsOf(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Pod, metadata: {name: a}}]\n---\n# nothing\n"))
	f.Add([]byte("apiVersion: v1\nkind: Pod\nmetadata: 7\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := objectsOf("a", data)
		if err != nil {
			return
		}
		o := Options{Namespace: "n"}
		var r Rendered
		if err := o.write(&r, objects); err != nil {
			return
		}
		again, err := objectsOf("a", r.Manifest)
		if err != nil {
			t.Fatalf("what was written cannot be read: %v\n%s", err, r.Manifest)
		}
		if want := len(objects) + 1; len(again) != want && len(again) != len(objects) {
			t.Errorf("%d objects became %d", len(objects), len(again))
		}
	})
}
