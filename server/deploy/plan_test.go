package deploy

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestPlan(t *testing.T) {
	t.Parallel()
	const x, y, z = "v1 ConfigMap x", "v1 ConfigMap y", "apps/v1 Deployment web/z"
	rec := func(id fileID, lines ...string) record {
		return record{id: id, checksum: "old", refs: refs(t, lines...)}
	}
	with := func(f file, edit func(*file)) file { edit(&f); return f }
	broken := func(id fileID) file { return brokenFile(id, errors.New("broken")) }
	a, b := inDir("a.yaml"), inDir("b.yaml")
	for _, tt := range []struct {
		name    string
		files   []file
		records []record
		partial bool // the directory was not scanned
		want    []string
	}{
		{"new file", []file{fileOf(t, a, x, y)}, nil, false,
			[]string{"directory:a.yaml apply[x y] prune[] during[x y] after[x y]"}},
		{"nothing changed", []file{fileOf(t, a, x)}, []record{rec(a, x)}, false,
			[]string{"directory:a.yaml apply[x] prune[] during[x] after[x]"}},
		{"object gone from file", []file{fileOf(t, a, x)}, []record{rec(a, x, y)}, false,
			[]string{"directory:a.yaml apply[x] prune[y] during[x y] after[x]"}},
		{"file gone", nil, []record{rec(a, x, z)}, false,
			[]string{"directory:a.yaml remove prune[x web/z] during[x web/z] after[]"}},
		{"file gone, but not looked", nil, []record{rec(a, x)}, true, nil},
		{"directory not looked at protects its objects", []file{fileOf(t, packaged("p.yaml"), y)}, []record{rec(packaged("p.yaml"), x, y), rec(a, x)}, true,
			[]string{"embedded:p.yaml apply[y] prune[] during[y] after[y]"}},
		{"moved to another file", []file{fileOf(t, a, x), fileOf(t, b, y)}, []record{rec(a, x, y)}, false,
			[]string{"directory:a.yaml apply[x] prune[] during[x] after[x]", "directory:b.yaml apply[y] prune[] during[y] after[y]"}},
		{"renamed file", []file{fileOf(t, b, x)}, []record{rec(a, x)}, false,
			[]string{"directory:a.yaml remove prune[] during[] after[]", "directory:b.yaml apply[x] prune[] during[x] after[x]"}},
		{"broken file keeps its objects", []file{broken(a)}, []record{rec(a, x)}, false, nil},
		{"broken file protects from others' pruning", []file{broken(a), fileOf(t, b, y)}, []record{rec(a, x), rec(b, x, y)}, false,
			[]string{"directory:b.yaml apply[y] prune[] during[y] after[y]"}},
		{"object taken out of a broken file", []file{broken(a), fileOf(t, b, x)}, []record{rec(a, x)}, false,
			[]string{"directory:b.yaml apply[x] prune[] during[x] after[x]"}},
		{"skipped", []file{with(fileOf(t, a), func(f *file) { f.intent = intentSkip })}, []record{rec(a, x)}, false, nil},
		{"being written", []file{with(fileOf(t, a), func(f *file) { f.intent = intentWait })}, []record{rec(a, x)}, false, nil},
		{"disabled", []file{with(fileOf(t, a), func(f *file) { f.intent = intentRemove })}, []record{rec(a, x)}, false,
			[]string{"directory:a.yaml remove prune[x] during[x] after[]"}},
		{"disabled and never deployed", []file{with(fileOf(t, a), func(f *file) { f.intent = intentRemove })}, nil, false, nil},
		{"embedded file gone after an upgrade", nil, []record{rec(packaged("old.yaml"), x)}, false,
			[]string{"embedded:old.yaml remove prune[x] during[x] after[]"}},
		{"another server's files", nil, []record{rec(fileID{directoryOf("other"), "a.yaml"}, x)}, false, nil},
		{"in two files", []file{fileOf(t, b, x, y), fileOf(t, a, x)}, nil, false,
			[]string{"directory:a.yaml apply[x] prune[] during[x] after[x]", "directory:b.yaml apply[y] prune[] during[y] after[y] !ConfigMap x is already in directory:a.yaml; this one is ignored"}},
		{"embedded ones win", []file{fileOf(t, a, x), fileOf(t, packaged("z.yaml"), x)}, nil, false,
			[]string{"embedded:z.yaml apply[x] prune[] during[x] after[x]", "directory:a.yaml apply[] prune[] during[] after[] !ConfigMap x is already in embedded:z.yaml; this one is ignored"}},
		{"twice in one file", []file{fileOf(t, a, x, x)}, nil, false,
			[]string{"directory:a.yaml apply[x] prune[] during[x] after[x] !ConfigMap x stands in the file twice; the second one is ignored"}},
		{"default namespace is no namespace", []file{fileOf(t, a, "v1 ConfigMap default/x")}, []record{rec(a, x)}, false,
			[]string{"directory:a.yaml apply[default/x] prune[] during[default/x] after[default/x]"}},
		{"new version of a kind is the same object", []file{fileOf(t, a, "batch/v1 CronJob c")}, []record{rec(a, "batch/v1beta1 CronJob c")}, false,
			[]string{"directory:a.yaml apply[c] prune[] during[c] after[c]"}},
		{"another group is another object", []file{fileOf(t, a, "apps/v1 Deployment web/z")}, []record{rec(a, "extensions/v1 Deployment web/z")}, false,
			[]string{"directory:a.yaml apply[web/z] prune[web/z] during[web/z web/z] after[web/z]"}},
		{"system namespaces stay", nil, []record{rec(a, "v1 Namespace kube-system", "v1 Namespace default", "v1 Namespace web")}, false,
			[]string{"directory:a.yaml remove prune[web] during[web] after[]"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			scanned := func(o origin) bool { return o == originEmbedded || o == directoryOf("") && !tt.partial }
			var got []string
			for _, s := range plan(tt.files, tt.records, scanned) {
				got = append(got, render(s))
			}
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", tt.want) {
				t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(tt.want, "\n  "))
			}
		})
	}
}

func render(s step) string {
	names := func(refs []ref) string { return "[" + strings.Join(mapped(refs, ref.path), " ") + "]" }
	var apply []ref
	for _, obj := range s.apply {
		apply = append(apply, refOf(obj))
	}
	verb := "apply" + names(apply)
	if s.remove {
		verb = "remove"
	}
	out := fmt.Sprintf("%s %s prune%s during%s after%s", s.id, verb, names(s.prune), names(s.during), names(s.after))
	for _, p := range s.problems {
		out += " !" + p
	}
	return out
}

// A solved quarrel between two files is a reason to apply the loser again.
func TestPlanRevisionFollowsProblems(t *testing.T) {
	t.Parallel()
	all := func(origin) bool { return true }
	b := fileOf(t, inDir("b.yaml"), "v1 ConfigMap x")
	quarrel := plan([]file{fileOf(t, inDir("a.yaml"), "v1 ConfigMap x"), b}, nil, all)
	alone := plan([]file{b}, nil, all)
	if quarrel[1].revision == alone[0].revision {
		t.Error("the revision stayed the same")
	}
}

func TestClasses(t *testing.T) {
	t.Parallel()
	// In the order in which they must be applied; equal numbers are one class.
	for i, group := range [][]string{
		{"v1 Namespace a"},
		{"apiextensions.k8s.io/v1 CustomResourceDefinition a"},
		{"v1 ServiceAccount a", "rbac.authorization.k8s.io/v1 ClusterRole a", "rbac.authorization.k8s.io/v1 RoleBinding a", "scheduling.k8s.io/v1 PriorityClass a", "storage.k8s.io/v1 StorageClass a"},
		{"v1 ConfigMap a", "v1 Secret a", "v1 PersistentVolumeClaim a"},
		{"v1 Service a"},
		{"apps/v1 Deployment a", "batch/v1 Job a", "v1 Pod a", "networking.k8s.io/v1 Ingress a", "example.org/v1 Namespace a", "serving.knative.dev/v1 Service a"},
		{"admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration a", "apiregistration.k8s.io/v1 APIService a"},
	} {
		for _, line := range group {
			if got := classOf(r(t, line).GroupKind()); got != class(i) {
				t.Errorf("%s is in class %d, want %d", line, got, i)
			}
		}
	}
}

func TestSubstitute(t *testing.T) {
	t.Parallel()
	vars := map[string]string{"CLUSTER_DNS": "10.43.0.10", "D": "%{CLUSTER_DNS}%"}
	got, err := substitute([]byte("ip: %{CLUSTER_DNS}% %{D}% %{lower}% 50%{"), vars)
	if want := "ip: 10.43.0.10 %{CLUSTER_DNS}% %{lower}% 50%{"; err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := substitute([]byte("%{CLUSTER_DSN}%"), vars); err == nil || !strings.Contains(err.Error(), "CLUSTER_DSN") || !strings.Contains(err.Error(), "CLUSTER_DNS, D") {
		t.Errorf("unknown variable: %v", err)
	}
}
