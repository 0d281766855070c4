package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

const manifestsDir = dataDir + "/server/manifests"

// withinSeconds is when a dropped manifest must have had its effect; about one
// second is meant, the rest is for a busy machine.
const withinSeconds = 5

// manifest writes a file and removes it when the test ends.
func (s *space) manifest(name, text string) {
	s.t.Helper()
	file := filepath.Join(manifestsDir, name)
	s.t.Cleanup(func() { s.remove(s.t, node1, file) })
	s.drop(s.t, node1, file, []byte(text))
}

func (s *space) configMap(name string, data string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: %s\n  namespace: %s\ndata:\n  k: %q\n", name, s.name, data)
}

// awaitConfigMap waits until the ConfigMap says data.
func (s *space) awaitConfigMap(ctx context.Context, name, data string) {
	s.t.Helper()
	await(ctx, s.t, s.client.CoreV1().ConfigMaps(s.name), name, func(cm *corev1.ConfigMap) string {
		if cm.Data["k"] != data {
			return fmt.Sprintf("it says %q", cm.Data["k"])
		}
		return ""
	})
}

// timed fails the test when step takes longer than a manifest may take.
func timed(s *space, what string, step func(ctx context.Context)) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, withinSeconds*time.Second)
	defer cancel()
	start := time.Now()
	step(ctx)
	s.t.Logf("%s after %s", what, time.Since(start).Round(time.Millisecond))
}

// TestManifestFile follows one file through its life.
func TestManifestFile(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	file, maps := s.name+".yaml", s.client.CoreV1().ConfigMaps(s.name)
	timed(s, "applied", func(ctx context.Context) {
		s.manifest(file, s.configMap("one", "first")+"---\n"+s.configMap("two", "first"))
		s.awaitConfigMap(ctx, "one", "first")
		s.awaitConfigMap(ctx, "two", "first")
	})
	timed(s, "changed", func(ctx context.Context) {
		s.manifest(file, s.configMap("one", "second")+"---\n"+s.configMap("two", "first"))
		s.awaitConfigMap(ctx, "one", "second")
	})
	one := must[*corev1.ConfigMap](s)(maps.Get(s.ctx, "one", metav1.GetOptions{}))
	if manager := one.ManagedFields[0].Manager; manager != "limpet" {
		t.Errorf("the field manager is %q, want limpet", manager)
	}
	timed(s, "an object that left the file is gone", func(ctx context.Context) {
		s.manifest(file, s.configMap("one", "second"))
		awaitGone(ctx, t, maps, "two")
	})
	s.awaitConfigMap(s.ctx, "one", "second")
	timed(s, "skipped", func(ctx context.Context) {
		// A file that is to be skipped is let alone: its objects stay, changes have no effect.
		s.manifest(file+".skip", "")
		eventually(ctx, t, "limpet status shows the skipped file", func() error {
			if f, ok := statusOf(s.status(ctx, t).Manifests, file); !ok || f.State != "Skipped" {
				return fmt.Errorf("it shows %+v", f)
			}
			return nil
		})
	})
	s.manifest(file, s.configMap("one", "unseen"))
	s.manifest(s.name+"-mark.yaml", s.configMap("mark", "seen"))
	s.awaitConfigMap(s.ctx, "mark", "seen") // whoever saw this saw the other, too
	s.awaitConfigMap(s.ctx, "one", "second")
	timed(s, "no longer skipped", func(ctx context.Context) {
		s.remove(t, node1, filepath.Join(manifestsDir, file+".skip"))
		s.awaitConfigMap(ctx, "one", "unseen")
	})
	timed(s, "removed with its file", func(ctx context.Context) {
		s.remove(t, node1, filepath.Join(manifestsDir, file))
		awaitGone(ctx, t, maps, "one")
	})
}

// TestManifestJSONAndList takes a .json file and a List.
func TestManifestJSONAndList(t *testing.T) {
	s := sharedSpace(t, time.Minute)
	item := func(name string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q,"namespace":%q},"data":{"k":"json"}}`, name, s.name)
	}
	s.manifest(s.name+".json", `{"apiVersion":"v1","kind":"List","items":[`+item("one")+","+item("two")+"]}")
	s.awaitConfigMap(s.ctx, "one", "json")
	s.awaitConfigMap(s.ctx, "two", "json")
}

// TestManifestKeepsForeignFields changes a file whose object somebody else has
// added to: server-side apply leaves what others own alone.
func TestManifestKeepsForeignFields(t *testing.T) {
	s := sharedSpace(t, time.Minute)
	s.manifest(s.name+".yaml", s.configMap("one", "file"))
	s.awaitConfigMap(s.ctx, "one", "file")
	s.kubectl("patch", "cm", "one", "--type=merge", "-p", `{"data":{"other":"mine"}}`)
	s.manifest(s.name+".yaml", s.configMap("one", "changed"))
	s.awaitConfigMap(s.ctx, "one", "changed")
	cm := must[*corev1.ConfigMap](s)(s.client.CoreV1().ConfigMaps(s.name).Get(s.ctx, "one", metav1.GetOptions{}))
	if cm.Data["other"] != "mine" {
		t.Errorf("data is %v: somebody else's key was taken away", cm.Data)
	}
}

// TestBrokenManifest reports two broken files, and neither holds others up.
func TestBrokenManifest(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	syntax, kind := s.name+"-syntax.yaml", s.name+"-kind.yaml"
	s.manifest(syntax, "apiVersion: v1\nkind: ConfigMap\n  metadata: {name: x\n")
	s.manifest(kind, "apiVersion: nowhere.example/v1\nkind: Nothing\nmetadata: {name: x}\n")
	timed(s, "a good file beside broken ones", func(ctx context.Context) {
		s.manifest(s.name+"-good.yaml", s.configMap("good", "applied"))
		s.awaitConfigMap(ctx, "good", "applied")
	})
	for file, why := range map[string]string{syntax: "line", kind: "Nothing"} {
		eventAbout(s.ctx, t, s.cluster, "a Warning about "+file, func(e *corev1.Event) bool {
			return e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, why) &&
				(strings.Contains(e.Message, file) || e.InvolvedObject.Name == file)
		})
		eventually(s.ctx, t, "limpet status tells of "+file, func() error {
			if f, ok := statusOf(s.status(s.ctx, t).Manifests, file); !ok || !strings.Contains(f.Error, why) {
				return fmt.Errorf("it says %+v", f)
			}
			return nil
		})
	}
	r := s.in(s.ctx, node1, "limpet", "status")
	if r.code != 1 || !strings.Contains(r.stdout, syntax) {
		t.Errorf("limpet status: exit status %d, want 1 and a word about %s: %s", r.code, syntax, r.stdout)
	}
	// Once mended, all is forgotten.
	s.manifest(syntax, s.configMap("mended", "yes"))
	s.awaitConfigMap(s.ctx, "mended", "yes")
	eventually(s.ctx, t, "limpet status is content with "+syntax, func() error {
		if f, ok := statusOf(s.status(s.ctx, t).Manifests, syntax); !ok || f.Error != "" {
			return fmt.Errorf("it says %+v", f)
		}
		return nil
	})
}

// TestManifestWithItsOwnKind has a kind and an object of it in one file, the object first.
func TestManifestWithItsOwnKind(t *testing.T) {
	s := sharedSpace(t, 2*time.Minute)
	client, err := dynamic.NewForConfig(s.config)
	s.ok(err)
	shells := client.Resource(schema.GroupVersionResource{Group: "e2e.limpet.io", Version: "v1", Resource: "shells"}).Namespace(s.name)
	file := s.name + ".yaml"
	s.manifest(file, fmt.Sprintf(`apiVersion: e2e.limpet.io/v1
kind: Shell
metadata: {name: big, namespace: %s}
spec: {size: 3}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: shells.e2e.limpet.io}
spec:
  group: e2e.limpet.io
  names: {kind: Shell, plural: shells, singular: shell}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
`, s.name))
	start := time.Now()
	eventually(s.ctx, t, "the object of the new kind", func() error {
		_, err := shells.Get(s.ctx, "big", metav1.GetOptions{})
		return err
	})
	t.Logf("kind and object were there after %s", time.Since(start).Round(time.Millisecond))
	if f, _ := statusOf(s.status(s.ctx, t).Manifests, file); f.Error != "" {
		t.Errorf("limpet status: %+v", f)
	}
	s.remove(t, node1, filepath.Join(manifestsDir, file))
	eventually(s.ctx, t, "the kind is gone with its file", func() error {
		if out := s.run(s.ctx, "kubectl", "get", "crd", "shells.e2e.limpet.io"); out.code == 0 {
			return fmt.Errorf("it is there: %s", out.stdout)
		}
		return nil
	})
}
