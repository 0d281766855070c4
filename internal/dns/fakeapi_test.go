package dns

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
)

// fakeAPI serves get, list, watch (with and without initial events), create and
// patch of the few resources that the DNS server uses.
type fakeAPI struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	rv       int
	objects  map[string]runtime.Object // by resource/namespace/name
	watchers map[chan fakeEvent]fakeQuery

	events    chan *corev1.Event // created Events
	annotated chan string        // what Nodes' annotations were patched to, empty when removed
}

type fakeEvent struct {
	Type   string         `json:"type"`
	Object runtime.Object `json:"object"`
}

type fakeQuery struct {
	resource, namespace string
	name                string
	labels              labels.Selector
}

func (q fakeQuery) matches(key string, obj runtime.Object) bool {
	m, err := meta.Accessor(obj)
	return err == nil && strings.HasPrefix(key, q.resource+"/") &&
		(q.namespace == "" || m.GetNamespace() == q.namespace) &&
		(q.name == "" || m.GetName() == q.name) &&
		q.labels.Matches(labels.Set(m.GetLabels()))
}

func newFakeAPI(t *testing.T) *fakeAPI {
	f := &fakeAPI{
		t: t, rv: 100,
		objects: make(map[string]runtime.Object), watchers: make(map[chan fakeEvent]fakeQuery),
		events: make(chan *corev1.Event, 16), annotated: make(chan string, 16),
	}
	f.Server = httptest.NewServer(f)
	t.Cleanup(func() { f.CloseClientConnections(); f.Close() })
	return f
}

// kubeconfig writes a kubeconfig for the fake and returns its path.
func (f *fakeAPI) kubeconfig() string {
	p := filepath.Join(f.t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","clusters":[{"name":"a","cluster":{"server":%q}}],
"contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],"users":[{"name":"a","user":{}}],"current-context":"a"}`, f.URL)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return p
}

// set creates or replaces an object and tells the watchers.
func (f *fakeAPI) set(resource string, obj runtime.Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, err := meta.Accessor(obj)
	if err != nil {
		f.t.Error(err)
		return
	}
	gvks, _, err := scheme.Scheme.ObjectKinds(obj)
	if err != nil {
		f.t.Error(err)
		return
	}
	obj.GetObjectKind().SetGroupVersionKind(gvks[0])
	f.rv++
	m.SetResourceVersion(strconv.Itoa(f.rv))
	key := resource + "/" + m.GetNamespace() + "/" + m.GetName()
	kind := "ADDED"
	if f.objects[key] != nil {
		kind = "MODIFIED"
	}
	f.objects[key] = obj
	f.notify(key, fakeEvent{kind, obj})
}

func (f *fakeAPI) remove(resource, namespace, name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := resource + "/" + namespace + "/" + name
	if obj := f.objects[key]; obj != nil {
		delete(f.objects, key)
		f.notify(key, fakeEvent{"DELETED", obj})
	}
}

func (f *fakeAPI) notify(key string, ev fakeEvent) {
	for c, q := range f.watchers {
		if q.matches(key, ev.Object) {
			c <- ev
		}
	}
}

// ServeHTTP routes /api/v1/... and /apis/GROUP/VERSION/... .
func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch parts[0] {
	case "api":
		parts = parts[2:]
	case "apis":
		parts = parts[3:]
	}
	q := fakeQuery{labels: labels.Everything()}
	if len(parts) > 2 && parts[0] == "namespaces" {
		q.namespace, parts = parts[1], parts[2:]
	}
	q.resource = parts[0]
	if sel, err := fields.ParseSelector(r.URL.Query().Get("fieldSelector")); err == nil {
		q.name, _ = sel.RequiresExactMatch("metadata.name")
	}
	if sel, err := labels.Parse(r.URL.Query().Get("labelSelector")); err == nil {
		q.labels = sel
	}
	switch {
	case r.Method == http.MethodGet && r.URL.Query().Get("watch") != "":
		f.watch(w, r, q)
	case r.Method == http.MethodGet && len(parts) > 1:
		f.get(w, q.resource+"/"+q.namespace+"/"+parts[1])
	case r.Method == http.MethodGet:
		f.list(w, q)
	case r.Method == http.MethodPost && q.resource == "events":
		f.createEvent(w, r)
	case r.Method == http.MethodPatch && q.resource == "nodes":
		f.annotate(w, r, parts[1])
	default:
		http.Error(w, r.Method+" "+r.URL.Path, http.StatusNotImplemented)
	}
}

func (f *fakeAPI) matching(q fakeQuery) []runtime.Object {
	var out []runtime.Object
	for key, obj := range f.objects {
		if q.matches(key, obj) {
			out = append(out, obj)
		}
	}
	return out
}

func (f *fakeAPI) list(w http.ResponseWriter, q fakeQuery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	version := "v1"
	if q.resource == "endpointslices" {
		version = "discovery.k8s.io/v1"
	}
	kind := map[string]string{"configmaps": "ConfigMapList", "nodes": "NodeList", "services": "ServiceList",
		"namespaces": "NamespaceList", "endpointslices": "EndpointSliceList", "pods": "PodList"}[q.resource]
	writeJSON(w, map[string]any{"kind": kind, "apiVersion": version,
		"metadata": map[string]any{"resourceVersion": strconv.Itoa(f.rv)}, "items": append([]runtime.Object{}, f.matching(q)...)})
}

func (f *fakeAPI) watch(w http.ResponseWriter, r *http.Request, q fakeQuery) {
	c := make(chan fakeEvent, 64)
	f.mu.Lock()
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for _, obj := range f.matching(q) {
			c <- fakeEvent{"ADDED", obj}
		}
		c <- fakeEvent{"BOOKMARK", f.bookmark(q)}
	}
	f.watchers[c] = q
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.watchers, c)
		f.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	for {
		w.(http.Flusher).Flush()
		select {
		case <-r.Context().Done():
			return
		case ev := <-c:
			b, err := json.Marshal(ev)
			if err != nil {
				f.t.Error(err)
			}
			_, _ = w.Write(b)
		}
	}
}

func (f *fakeAPI) bookmark(q fakeQuery) runtime.Object {
	m := metav1.ObjectMeta{ResourceVersion: strconv.Itoa(f.rv), Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}
	obj := map[string]runtime.Object{
		"configmaps": &corev1.ConfigMap{ObjectMeta: m}, "nodes": &corev1.Node{ObjectMeta: m}, "services": &corev1.Service{ObjectMeta: m},
		"namespaces": &corev1.Namespace{ObjectMeta: m}, "pods": &corev1.Pod{ObjectMeta: m}, "endpointslices": &discoveryv1.EndpointSlice{ObjectMeta: m},
	}[q.resource]
	gvks, _, _ := scheme.Scheme.ObjectKinds(obj)
	obj.GetObjectKind().SetGroupVersionKind(gvks[0])
	return obj
}

func (f *fakeAPI) createEvent(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(b, nil, nil)
	if err != nil {
		f.t.Errorf("decode Event: %v", err)
	}
	ev, ok := obj.(*corev1.Event)
	if !ok {
		f.t.Errorf("created %T", obj)
		return
	}
	f.events <- ev
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(ev)
}

func (f *fakeAPI) get(w http.ResponseWriter, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if obj := f.objects[key]; obj != nil {
		writeJSON(w, obj)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusNotFound)
	_ = json.NewEncoder(w).Encode(&metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status: metav1.StatusFailure, Reason: metav1.StatusReasonNotFound, Code: http.StatusNotFound})
}

// annotate applies a merge patch of our annotation to a Node.
func (f *fakeAPI) annotate(w http.ResponseWriter, r *http.Request, name string) {
	var patch struct {
		Metadata struct {
			Annotations map[string]*string `json:"annotations"`
		} `json:"metadata"`
	}
	if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
		f.t.Errorf("decode patch: %v", err)
	}
	f.mu.Lock()
	old, ok := f.objects["nodes//"+name].(*corev1.Node)
	f.mu.Unlock()
	if !ok {
		f.get(w, "nodes//"+name)
		return
	}
	changed, text := old.DeepCopy(), ""
	delete(changed.Annotations, Annotation)
	if value := patch.Metadata.Annotations[Annotation]; value != nil {
		text = *value
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, Annotation, text)
	}
	f.set("nodes", changed)
	f.annotated <- text
	writeJSON(w, changed)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// await takes from the channel what matches, or fails the test.
func await[T any](t *testing.T, c <-chan T, what string, match func(T) bool) T {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case v := <-c:
			if match(v) {
				return v
			}
		case <-deadline:
			t.Fatalf("%s did not happen", what)
		}
	}
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: "u-" + "1"}, Data: data}
}

// node is a Node with an address and, unless it is empty, our annotation.
func node(name, address, annotation string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}}}
	if annotation != "" {
		n.Annotations = map[string]string{Annotation: annotation}
	}
	return n
}

func apiServerService() []runtime.Object {
	return []runtime.Object{
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"},
			Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.1", ClusterIPs: []string{"10.43.0.1"}, Type: corev1.ServiceTypeClusterIP,
				Ports: []corev1.ServicePort{{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}}},
		},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
	}
}

func has(s []string, sub string) bool {
	return slices.ContainsFunc(s, func(x string) bool { return strings.Contains(x, sub) })
}

// deadKubeconfig is a kubeconfig whose server refuses connections.
func deadKubeconfig(t *testing.T) string {
	f := &fakeAPI{t: t, Server: httptest.NewServer(http.NotFoundHandler())}
	f.Close()
	return f.kubeconfig()
}
