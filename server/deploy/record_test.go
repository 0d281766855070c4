package deploy

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// stored is what reading the record back from the apiserver gives.
func stored(t testing.TB, rec record) *corev1.ConfigMap {
	t.Helper()
	data, err := json.Marshal(rec.configMap())
	if err != nil {
		t.Fatal(err)
	}
	var cm corev1.ConfigMap
	if err := json.Unmarshal(data, &cm); err != nil {
		t.Fatal(err)
	}
	return &cm
}

func TestRecordRoundTrip(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"app.yaml", "Sub Dir/Ünïcode & more.yml", strings.Repeat("long/", 40) + strings.Repeat("x", 200) + ".json", "-.yaml", "ß.yaml"} {
		rec := record{id: inDir(path), checksum: "abc", refs: refs(t, "v1 Namespace web", "apps/v1 Deployment web/shop", "rbac.authorization.k8s.io/v1 ClusterRole a b:c")}
		cm := stored(t, rec)
		if problems := validation.IsDNS1123Subdomain(cm.Name); len(problems) > 0 {
			t.Errorf("%s: name %q: %v", path, cm.Name, problems)
		}
		if problems := validation.IsValidLabelValue(cm.Labels[manifestLabel]); len(problems) > 0 {
			t.Errorf("%s: label: %v", path, problems)
		}
		got, err := decodeRecord(cm)
		if err != nil || !got.same(rec) {
			t.Errorf("%s: got %+v, %v", path, got, err)
		}
	}
}

func TestRecordNamesDiffer(t *testing.T) {
	t.Parallel()
	seen := make(map[string]fileID)
	for _, id := range []fileID{packaged("a.yaml"), inDir("a.yaml"), inDir("a.yml"), inDir("x/a.yaml"), inDir("A.yaml"), {directoryOf("n1"), "a.yaml"}, {directoryOf("n2"), "a.yaml"}} {
		name := recordName(id)
		if other, ok := seen[name]; ok {
			t.Errorf("%v and %v are both %s", id, other, name)
		}
		seen[name] = id
	}
}

func TestDecodeRecordRefuses(t *testing.T) {
	t.Parallel()
	good := record{id: inDir("a.yaml"), refs: refs(t, "v1 Pod a")}
	for name, edit := range map[string]func(*corev1.ConfigMap){
		"no data":         func(cm *corev1.ConfigMap) { cm.Data = nil },
		"copied by hand":  func(cm *corev1.ConfigMap) { cm.Name = "copy" },
		"broken line":     func(cm *corev1.ConfigMap) { cm.Data[keyObjects] += "nonsense\n" },
		"other path":      func(cm *corev1.ConfigMap) { cm.Data[keyPath] = "b.yaml" },
		"line without gv": func(cm *corev1.ConfigMap) { cm.Data[keyObjects] = " Pod a\n" },
	} {
		cm := stored(t, good)
		edit(cm)
		if got, err := decodeRecord(cm); err == nil {
			t.Errorf("%s: accepted as %+v", name, got)
		}
	}
}

func TestBiggestRecordFitsIntoAConfigMap(t *testing.T) {
	t.Parallel()
	rec := record{id: inDir("a.yaml")}
	line := "rbac.authorization.k8s.io/v1 ClusterRoleBinding " + strings.Repeat("n", 63) + "/" + strings.Repeat("x", 63)
	for range maxObjects {
		rec.refs = append(rec.refs, r(t, line))
	}
	if size := len(stored(t, rec).Data[keyObjects]); size > 1<<20 {
		t.Errorf("%d bytes", size)
	}
}

func FuzzDecodeRef(f *testing.F) {
	f.Add("apps/v1 Deployment web/shop")
	f.Add("v1 Namespace a b")
	f.Add("a/b/c X y")
	f.Fuzz(func(t *testing.T, line string) {
		got, err := decodeRef(line)
		if err != nil {
			return
		}
		if again, err := decodeRef(got.encode()); err != nil || again != got {
			t.Errorf("%q: %#v, then %#v, %v", line, got, again, err)
		}
	})
}
