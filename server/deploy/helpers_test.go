package deploy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// r makes a ref from its line in a record.
func r(t testing.TB, line string) ref {
	t.Helper()
	out, err := decodeRef(line)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func refs(t testing.TB, lines ...string) []ref {
	t.Helper()
	var out []ref
	for _, line := range lines {
		out = append(out, r(t, line))
	}
	return out
}

// object makes the object that a record's line names.
func object(t testing.TB, line string) *unstructured.Unstructured {
	t.Helper()
	from := r(t, line)
	obj := &unstructured.Unstructured{Object: map[string]any{}}
	obj.SetGroupVersionKind(from.GroupVersionKind)
	obj.SetNamespace(from.Namespace)
	obj.SetName(from.Name)
	return obj
}

func inDir(path string) fileID { return fileID{directoryOf(""), path} }
func packaged(p string) fileID { return fileID{originEmbedded, p} }

func mapped[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

// fileOf is a file that parsed well.
func fileOf(t testing.TB, id fileID, objectLines ...string) file {
	t.Helper()
	f := file{id: id, checksum: "sum-" + id.path, revision: "rev-" + id.path + strings.Join(objectLines, ",")}
	for _, line := range objectLines {
		f.objects = append(f.objects, object(t, line))
	}
	return f
}

func put(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const configMapYAML = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n"
