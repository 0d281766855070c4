package deploy

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	authclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/limpetio/limpet/manifests"
)

// clusterEnv names a kubeconfig with all rights on a cluster whose service range
// holds 10.43.0.10; TestCluster runs against it and leaves nothing behind but
// the packaged manifests.
const clusterEnv = "LIMPET_TEST_KUBECONFIG"

var (
	configMapGVR = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	thingGVR     = schema.GroupVersionResource{Group: "test.limpet.io", Version: "v1", Resource: "things"}
	serviceGVR   = schema.GroupVersionResource{Version: "v1", Resource: "services"}
)

type clusterTest struct {
	t      *testing.T
	config *rest.Config
	client dynamic.Interface
	dir    string
}

// run starts a controller as a process would, and returns how to stop it.
func (ct *clusterTest) run() (c *Controller, stop func()) {
	ct.t.Helper()
	c, err := New(Options{
		Config: ct.config, Dir: ct.dir, Embedded: manifests.FS(),
		Variables: manifests.Variables([]netip.Addr{netip.MustParseAddr("10.43.0.10")}, "cluster.local"),
		Logger:    slog.New(slog.NewTextHandler(testWriter{ct.t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		ct.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ct.t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	began := time.Now()
	go func() { ended <- c.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
		ct.t.Logf("ready after %v", time.Since(began).Round(time.Millisecond))
	case err := <-ended:
		ct.t.Fatalf("ended before it was ready: %v", err)
	case <-time.After(30 * time.Second):
		ct.t.Fatalf("not ready: %+v", c.Status())
	}
	return c, func() {
		cancel()
		if err := <-ended; err != nil {
			ct.t.Errorf("stopped with %v", err)
		}
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// await asks until the object is as it shall be; want gets nil while it does
// not exist.
func (ct *clusterTest) await(what string, gvr schema.GroupVersionResource, path string, want func(*unstructured.Unstructured) bool) *unstructured.Unstructured {
	ct.t.Helper()
	namespace, name, _ := strings.Cut(path, "/")
	began := time.Now()
	for {
		obj, err := ct.client.Resource(gvr).Namespace(namespace).Get(ct.t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			obj = nil
		} else if err != nil {
			ct.t.Fatal(err)
		}
		if want(obj) {
			ct.t.Logf("%s: after %v", what, time.Since(began).Round(10*time.Millisecond))
			return obj
		}
		if time.Since(began) > 15*time.Second {
			ct.t.Fatalf("%s: timed out; %s is %v", what, path, obj)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func exists(obj *unstructured.Unstructured) bool { return obj != nil }
func absent(obj *unstructured.Unstructured) bool { return obj == nil }
func value(want string) func(*unstructured.Unstructured) bool {
	return func(obj *unstructured.Unstructured) bool {
		if obj == nil {
			return false
		}
		got, _, _ := unstructured.NestedString(obj.Object, "data", "x")
		return got == want
	}
}

const (
	definitionYAML = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.test.limpet.io}
spec:
  group: test.limpet.io
  names: {kind: Thing, plural: things, singular: thing, listKind: ThingList}
  scope: Namespaced
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`
	thingYAML = "apiVersion: test.limpet.io/v1\nkind: Thing\nmetadata: {name: thing, namespace: limpet-test}\n"
	nsYAML    = "apiVersion: v1\nkind: Namespace\nmetadata: {name: limpet-test}\n"
)

func mapYAML(name, x string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {x: %q}\n", name, x)
}

// TestCluster follows the life of some files in a real cluster.
func TestCluster(t *testing.T) {
	kubeconfig := os.Getenv(clusterEnv)
	if kubeconfig == "" {
		t.Skipf("%s names no cluster", clusterEnv)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ct := &clusterTest{t: t, config: config, client: client, dir: filepath.Join(t.TempDir(), "manifests")}
	c, stop := ct.run()

	// A resource before its definition, both before their namespace.
	put(t, ct.dir, "a-thing.yaml", thingYAML)
	put(t, ct.dir, "z-definition.yaml", definitionYAML+"---\n"+nsYAML)
	put(t, ct.dir, "sub/maps.yaml", mapYAML("limpet-a", "1")+mapYAML("limpet-b", "1"))
	put(t, ct.dir, "broken.yaml", mapYAML("limpet-broken", "1")+"---\nkind: [")
	put(t, ct.dir, "refused.yaml", mapYAML("limpet-fine", "1")+"---\napiVersion: v1\nkind: Service\nmetadata: {name: limpet-refused}\nspec: {ports: [{port: 70000}]}\n")
	ct.await("new files", configMapGVR, "default/limpet-a", value("1"))
	ct.await("the rest of a refused file", configMapGVR, "default/limpet-fine", value("1"))
	ct.await("custom resource", thingGVR, "limpet-test/thing", exists)
	ct.await("broken file", configMapGVR, "default/limpet-broken", absent)
	ct.states(c, "broken.yaml Failed", "refused.yaml Failed", "sub/maps.yaml Applied", "embedded:rbac.yaml Applied", "embedded:coredns.yaml Applied")
	ct.event("ApplyFailed", "directory:broken.yaml")
	ct.event("ApplyFailed", "directory:refused.yaml: Service limpet-refused")
	ct.event("Applied", "directory:sub/maps.yaml")

	// Changes: a value, an object less, an object that its owner keeps.
	put(t, ct.dir, "sub/maps.yaml", mapYAML("limpet-a", "2"))
	ct.await("changed value", configMapGVR, "default/limpet-a", value("2"))
	ct.await("pruned object", configMapGVR, "default/limpet-b", absent)
	take := []byte(`{"metadata":{"annotations":{"` + manifestLabel + `":null}}}`)
	if _, err := client.Resource(configMapGVR).Namespace("default").Patch(t.Context(), "limpet-fine", types.MergePatchType, take, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.Resource(configMapGVR).Namespace("default").Delete(context.Background(), "limpet-fine", metav1.DeleteOptions{})
	})
	ct.remove("refused.yaml")
	ct.event("Pruned", "directory:sub/maps.yaml")

	// A start on an unchanged directory writes nothing, a hand-made change is
	// put back, and what was removed meanwhile goes.
	stop()
	ct.remove("a-thing.yaml")
	before := ct.await("service", serviceGVR, "kube-system/kube-dns", exists)
	edit := []byte(`{"data":{"x":"by hand"}}`)
	if _, err := client.Resource(configMapGVR).Namespace("default").Patch(t.Context(), "limpet-a", types.MergePatchType, edit, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c, stop = ct.run()
	ct.await("value put back", configMapGVR, "default/limpet-a", value("2"))
	ct.await("resource removed while stopped", thingGVR, "limpet-test/thing", absent)
	if after := ct.await("service", serviceGVR, "kube-system/kube-dns", exists); after.GetResourceVersion() != before.GetResourceVersion() {
		t.Errorf("a start wrote an unchanged object: %v, then %v", before, after)
	}
	ct.await("object taken over by its owner", configMapGVR, "default/limpet-fine", exists)

	// Everything goes with the files.
	ct.remove("z-definition.yaml")
	ct.remove("broken.yaml")
	ct.remove("sub/maps.yaml")
	ct.await("last object", configMapGVR, "default/limpet-a", absent)
	ct.states(c, "embedded:coredns.yaml Applied", "embedded:rbac.yaml Applied")
	stop()
	ct.roles()
}

func (ct *clusterTest) remove(name string) {
	ct.t.Helper()
	if err := os.Remove(filepath.Join(ct.dir, filepath.FromSlash(name))); err != nil {
		ct.t.Fatal(err)
	}
}

// states waits for states of files.
func (ct *clusterTest) states(c *Controller, want ...string) {
	ct.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		var got []string
		for _, s := range c.Status() {
			got = append(got, s.Name+" "+string(s.State))
		}
		all := strings.Join(got, "\n")
		missing := 0
		for _, w := range want {
			if !strings.Contains(all, w) {
				missing++
			}
		}
		if missing == 0 {
			return
		}
		if time.Now().After(deadline) {
			ct.t.Fatalf("states are\n%s\nwant %q", all, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// event waits for an Event in kube-system.
func (ct *clusterTest) event(reason, message string) {
	ct.t.Helper()
	core := corev1client.NewForConfigOrDie(ct.config)
	deadline := time.Now().Add(15 * time.Second)
	for {
		list, err := core.Events(recordNamespace).List(ct.t.Context(), metav1.ListOptions{FieldSelector: "reason=" + reason})
		if err != nil {
			ct.t.Fatal(err)
		}
		for _, e := range list.Items {
			if strings.Contains(e.Message, message) && e.Source.Component == componentName && (e.Type == corev1.EventTypeWarning) == (reason == reasonFailed) {
				return
			}
		}
		if time.Now().After(deadline) {
			ct.t.Fatalf("no Event %s %q among %d", reason, message, len(list.Items))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// roles checks what manifests/rbac.yaml allows, and what it does not.
func (ct *clusterTest) roles() {
	ct.t.Helper()
	auth := authclient.NewForConfigOrDie(ct.config)
	for _, tt := range []struct {
		user, verb, group, resource, sub, namespace, name string
		allowed                                           bool
	}{
		{"kube-apiserver-kubelet-client", "get", "", "nodes", "proxy", "", "", true},
		{"kube-apiserver-kubelet-client", "get", "", "secrets", "", "kube-system", "", false},
		{"limpet:kube-proxy", "watch", "discovery.k8s.io", "endpointslices", "", "", "", true},
		{"limpet:network", "list", "", "nodes", "", "", "", true},
		{"limpet:network", "patch", "", "nodes", "status", "", "n1", false},
		{"limpet:network", "patch", "", "nodes", "", "", "n1", false},
		{"limpet:network", "list", "", "pods", "", "", "", false},
		{"limpet:dns", "list", "", "services", "", "", "", true},
		{"limpet:dns", "watch", "discovery.k8s.io", "endpointslices", "", "", "", true},
		{"limpet:dns", "create", "discovery.k8s.io", "endpointslices", "", "kube-system", "", false},
		{"limpet:dns-endpoints", "watch", "", "services", "", "kube-system", "kube-dns", true},
		{"limpet:dns-endpoints", "update", "discovery.k8s.io", "endpointslices", "", "kube-system", "kube-dns-ipv4-n1", true},
		{"limpet:dns-endpoints", "update", "discovery.k8s.io", "endpointslices", "", "default", "kubernetes", false},
		{"limpet:dns-endpoints", "patch", "", "nodes", "", "", "n1", false},
		{"limpet:dns", "watch", "", "configmaps", "", "kube-system", "coredns-custom", true},
		{"limpet:dns", "get", "", "configmaps", "", "kube-system", "extension-apiserver-authentication", false},
		{"limpet:dns", "list", "", "secrets", "", "", "", false},
		{"limpet:upgrades", "watch", "limpet.io", "upgradeplans", "", "", "", true},
		{"limpet:upgrades", "update", "limpet.io", "upgradeplans", "status", "", "site", true},
		{"limpet:upgrades", "update", "limpet.io", "upgradeplans", "", "", "site", false},
		{"limpet:upgrades", "patch", "", "nodes", "", "", "n1", true},
		{"limpet:upgrades", "patch", "", "nodes", "status", "", "n1", false},
		{"limpet:upgrades", "create", "", "pods", "eviction", "default", "web", true},
		{"limpet:upgrades", "delete", "", "pods", "", "default", "web", false},
		{"limpet:upgrades", "get", "", "secrets", "", "kube-system", "", false},
		{"system:nodes", "watch", "limpet.io", "upgradeplans", "", "", "", false},
	} {
		// The parts of a node are members of the group that has the name given here.
		review := &authv1.SubjectAccessReview{Spec: authv1.SubjectAccessReviewSpec{User: tt.user, Groups: []string{tt.user}, ResourceAttributes: &authv1.ResourceAttributes{
			Verb: tt.verb, Group: tt.group, Resource: tt.resource, Subresource: tt.sub, Namespace: tt.namespace, Name: tt.name,
		}}}
		got, err := auth.SubjectAccessReviews().Create(ct.t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			ct.t.Fatal(err)
		}
		if got.Status.Allowed != tt.allowed {
			ct.t.Errorf("%+v: allowed is %v", tt, got.Status.Allowed)
		}
	}
}

// The packaged manifests must parse with the variables that the server gives.
func TestPackagedManifests(t *testing.T) {
	t.Parallel()
	vars := manifests.Variables([]netip.Addr{netip.MustParseAddr("10.43.0.10"), netip.MustParseAddr("fd00:43::a")}, "site.local")
	files, err := readEmbedded(manifests.FS(), vars, nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	embedded, err := fs.Glob(manifests.FS(), "*.yaml")
	if err != nil || len(embedded) != len(files) {
		t.Fatalf("%d of %d files: %v", len(files), len(embedded), err)
	}
	steps := plan(files, nil, func(origin) bool { return true })
	for _, s := range steps {
		if len(s.problems) > 0 {
			t.Errorf("%s: %v", s.id, s.problems)
		}
		for _, obj := range s.apply {
			if refOf(obj).Kind != "Service" {
				continue
			}
			ips, _, err := unstructured.NestedStringSlice(obj.Object, "spec", "clusterIPs")
			if err != nil || strings.Join(ips, " ") != "10.43.0.10 fd00:43::a" {
				t.Errorf("clusterIPs %v, %v", ips, err)
			}
		}
	}
}
