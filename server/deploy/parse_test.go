package deploy

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseObjects(t *testing.T) {
	t.Parallel()
	meta := func(name string) string { return "metadata: {name: " + name + "}\n" }
	cm := "apiVersion: v1\nkind: ConfigMap\n"
	for _, tt := range []struct {
		name string
		data string
		want []string // as in a record
		err  string
	}{
		{"one", cm + meta("a"), []string{"v1 ConfigMap a"}, ""},
		{"documents", "---\n" + cm + meta("a") + "---\n# only a comment\n---\n\n---\n" + cm + meta("b"), []string{"v1 ConfigMap a", "v1 ConfigMap b"}, ""},
		{"windows line ends", strings.ReplaceAll(cm+meta("a")+"---\n"+cm+meta("b"), "\n", "\r\n"), []string{"v1 ConfigMap a", "v1 ConfigMap b"}, ""},
		{"byte order mark", "\ufeff" + cm + meta("a"), []string{"v1 ConfigMap a"}, ""},
		{"separator in a block scalar", cm + meta("a") + "data:\n  x: |\n    ---\n    y\n", []string{"v1 ConfigMap a"}, ""},
		{"namespace and group", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop, namespace: web}\n", []string{"apps/v1 Deployment web/shop"}, ""},
		{"name with colon", "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: 'limpet:dns'}\n", []string{"rbac.authorization.k8s.io/v1 ClusterRole limpet:dns"}, ""},
		{"JSON", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`, []string{"v1 ConfigMap a"}, ""},
		{"several JSON values", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}} {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`, []string{"v1 ConfigMap a", "v1 ConfigMap b"}, ""},
		{"flow YAML", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}", []string{"v1 ConfigMap a"}, ""},
		{"List", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: Secret, metadata: {name: b}}]}\n", []string{"v1 ConfigMap a", "v1 Secret b"}, ""},
		{"typed list", "apiVersion: v1\nkind: ConfigMapList\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n", []string{"v1 ConfigMap a"}, ""},
		{"empty", "", nil, ""},
		{"comments", "# nothing\n", nil, ""},

		{"no kind", "apiVersion: v1\n" + meta("a"), nil, "kind is missing"},
		{"no apiVersion", "kind: ConfigMap\n" + meta("a"), nil, "no apiVersion"},
		{"no name", cm, nil, "no metadata.name"},
		{"generateName", cm + "metadata: {generateName: a-}\n", nil, "generateName instead of metadata.name"},
		{"second document broken", cm + meta("a") + "---\nfoo: [\n", nil, "document 2: "},
		{"key twice", cm + "kind: Secret\n" + meta("a"), nil, `key "kind" already set`},
		{"only text", "hello", nil, "not a Kubernetes object"},
		{"a sequence", "- a\n- b\n", nil, "not a Kubernetes object"},
		{"zeroes", string(make([]byte, 64)), nil, "control characters"},
		{"name with slash", cm + meta("a/b"), nil, "may not contain '/'"},
		{"name with line end", cm + `metadata: {name: "a\nb"}`, nil, "control characters"},
		{"kind with space", "apiVersion: v1\nkind: Config Map\n" + meta("a"), nil, "white space"},
		{"group with two slashes", "apiVersion: a/b/c\nkind: X\n" + meta("a"), nil, "apiVersion is malformed"},
		{"number as name", cm + "metadata: {name: 7}\n", nil, "name"},
		{"too many", strings.Repeat(cm+meta("a")+"---\n", maxObjects+1), nil, "more than 4000 objects"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			objects, err := parseObjects([]byte(tt.data))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range objects {
				got = append(got, refOf(o).encode())
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// The output of `kubectl get -o yaml` must be usable as a manifest.
func TestParseDropsWhatTheServerSets(t *testing.T) {
	t.Parallel()
	objects, err := parseObjects([]byte(`
apiVersion: v1
kind: ConfigMap
metadata:
  name: a
  labels: {keep: "yes"}
  creationTimestamp: "2026-01-01T00:00:00Z"
  generation: 3
  managedFields: [{manager: kubectl}]
  resourceVersion: "77"
  uid: 0f0f
data: {x: "1"}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"x": "1"},
		"metadata": map[string]any{"name": "a", "labels": map[string]any{"keep": "yes"}},
	}
	if !reflect.DeepEqual(objects[0].Object, want) {
		t.Errorf("got %v, want %v", objects[0].Object, want)
	}
}

func FuzzParseObjects(f *testing.F) {
	f.Add([]byte(configMapYAML + "---\n" + configMapYAML))
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}]}`))
	f.Add([]byte("a: &x [*x, *x]"))
	f.Add([]byte("apiVersion: v1\nkind: ConfigMapList\nitems: 7"))
	f.Fuzz(func(t *testing.T, data []byte) {
		objects, err := parseObjects(data)
		if err != nil {
			return
		}
		for _, o := range objects { // whatever is accepted must survive being recorded
			want := refOf(o)
			got, err := decodeRef(want.encode())
			if err != nil || got != want {
				t.Errorf("%#v came back as %#v, %v", want, got, err)
			}
		}
	})
}
