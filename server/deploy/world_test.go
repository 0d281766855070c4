package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/rest"
)

// world is what outlives the controller: a cluster, reduced to which object
// belongs to which file, and the manifests directory. The real cluster is the
// business of TestCluster.
type world struct {
	t   *testing.T
	dir string

	mu      sync.Mutex
	objects map[string]string // ref.path to owner
	maps    map[string]*corev1.ConfigMap
	log     []string         // what was done to objects and records, in order
	fail    map[string]error // by ref.path, or "records"
	events  []string
	changed chan struct{} // poked after every change of objects
}

func newWorld(t *testing.T) *world {
	return &world{
		t: t, dir: filepath.Join(t.TempDir(), "manifests"), objects: map[string]string{}, maps: map[string]*corev1.ConfigMap{},
		fail: map[string]error{}, changed: make(chan struct{}, 1),
	}
}

func (w *world) apply(_ context.Context, id fileID, obj *unstructured.Unstructured) error {
	return w.do("apply", refOf(obj).path(), func(name string) { w.objects[name] = id.String() })
}

func (w *world) prune(_ context.Context, id fileID, r ref) (bool, error) {
	deleted := false
	return deleted, w.do("delete", r.path(), func(name string) {
		if deleted = w.objects[name] == id.String(); deleted {
			delete(w.objects, name)
		}
	})
}

func (w *world) forget() {}

func (w *world) do(verb, name string, change func(name string)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.fail[name]; err != nil {
		return err
	}
	w.log = append(w.log, verb+" "+name)
	change(name)
	select {
	case w.changed <- struct{}{}:
	default:
	}
	return nil
}

func (w *world) List(context.Context, metav1.ListOptions) (*corev1.ConfigMapList, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.fail["records"]; err != nil {
		return nil, err
	}
	list := &corev1.ConfigMapList{}
	for _, cm := range w.maps {
		list.Items = append(list.Items, *cm)
	}
	return list, nil
}

func (w *world) Apply(_ context.Context, ac *applycorev1.ConfigMapApplyConfiguration, _ metav1.ApplyOptions) (*corev1.ConfigMap, error) {
	var cm corev1.ConfigMap
	data, err := json.Marshal(ac)
	if err == nil {
		err = json.Unmarshal(data, &cm)
	}
	if err != nil {
		return nil, err
	}
	return &cm, w.do("record", cm.Data[keyPath], func(string) { w.maps[cm.Name] = &cm })
}

func (w *world) Delete(_ context.Context, name string, _ metav1.DeleteOptions) error {
	w.mu.Lock()
	path := w.maps[name].Data[keyPath]
	w.mu.Unlock()
	return w.do("drop", path, func(string) { delete(w.maps, name) })
}

func (w *world) Create(_ context.Context, e *corev1.Event, _ metav1.CreateOptions) (*corev1.Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e.Reason+" "+e.Message)
	return e, nil
}

// start is a new process.
func (w *world) start(embedded fstest.MapFS, disable ...string) *process {
	w.t.Helper()
	c, err := New(Options{
		Config: &rest.Config{Host: "https://127.0.0.1:1"}, Dir: w.dir, Embedded: embedded, Disable: disable,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	c.executor.objects, c.journal.maps, c.reporter.events = w, w, eventsOf{w}
	if err := c.prepareDirectory(); err != nil {
		w.t.Fatal(err)
	}
	p := &process{Controller: c, w: w, now: time.Now()}
	c.ledger.now = func() time.Time { return p.now }
	p.scan = &scanner{dir: w.dir, origin: c.dirOrig, disabled: c.disabled, visit: func(string) error { return nil }}
	return p
}

// eventsOf keeps Create for Events apart from the methods for ConfigMaps.
type eventsOf struct{ w *world }

func (e eventsOf) Create(ctx context.Context, event *corev1.Event, o metav1.CreateOptions) (*corev1.Event, error) {
	return e.w.Create(ctx, event, o)
}

// process is a controller whose clock and passes the test moves.
type process struct {
	*Controller
	w    *world
	scan *scanner
	now  time.Time
}

// change is a pass after something happened in the directory.
func (p *process) change() bool { return p.pass(p.w.t.Context(), p.scan, true) }

// retry is a pass when the next one is due.
func (p *process) retry() {
	p.w.t.Helper()
	next := p.ledger.next()
	if next.IsZero() {
		p.w.t.Fatal("nothing is to be tried again")
	}
	p.now = next
	p.pass(p.w.t.Context(), p.scan, false)
}

func (p *process) idle() {
	p.w.t.Helper()
	if next := p.ledger.next(); !next.IsZero() {
		p.w.t.Errorf("a timer is set although nothing fails: %v", p.Status())
	}
}

// has checks which objects exist.
func (w *world) has(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	var got []string
	for name := range w.objects {
		got = append(got, name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		w.t.Errorf("the cluster has %q, want %q", got, want)
	}
}

// did returns what was done since the last call.
func (w *world) did() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := strings.Join(w.log, ", ")
	w.log = nil
	return out
}

func (w *world) failing(name, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.fail, name)
	if text != "" {
		w.fail[name] = errors.New(text)
	}
}

// states renders the status of every file.
func (p *process) states() string {
	var out []string
	for _, s := range p.Status() {
		text := fmt.Sprintf("%s %s", s.Name, s.State)
		if s.Error != "" {
			text += " (" + s.Error + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// maps makes a manifest of ConfigMaps with these names.
func manifest(names ...string) string {
	var out strings.Builder
	for _, name := range names {
		fmt.Fprintf(&out, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n", name)
	}
	return out.String()
}
