package standin

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/limpetio/limpet/agent/standin/journal"
)

func joined(s []string) string { return strings.Join(s, " ") }

// Changes wait, merge, and vanish when they are taken back.
func TestPending(t *testing.T) {
	t.Parallel()
	disk := map[string]string{"kept": "1", "old": "1"}
	p := pending{changes: map[string]waiting{}, stored: func(key string, value []byte) bool {
		v, ok := disk[key]
		return value == nil && !ok || value != nil && ok && v == string(value)
	}}
	t0 := time.Unix(1000, 0)
	p.set("slow", []byte("1"), t0, 30*time.Second)
	p.set("slow", []byte("2"), t0.Add(20*time.Second), 30*time.Second) // keeps its time
	p.set("fast", []byte("1"), t0, time.Second)
	p.set("kept", []byte("2"), t0, time.Second)
	p.set("kept", []byte("1"), t0, time.Second) // taken back
	p.set("old", nil, t0, time.Second)
	p.set("never", nil, t0, time.Second)
	if at, ok := p.next(); !ok || !at.Equal(t0.Add(time.Second)) {
		t.Errorf("the first change is due at %v, %v", at, ok)
	}
	describe := func(changes []journal.Change) string {
		var s []string
		for _, c := range changes {
			s = append(s, fmt.Sprintf("%s=%s", c.Key, c.Value))
		}
		slices.Sort(s)
		return joined(s)
	}
	first := p.due(t0.Add(2*time.Second), false)
	if got := describe(first); got != "fast=1 old=" {
		t.Errorf("due are %s", got)
	}
	p.set("fast", []byte("changed meanwhile"), t0.Add(2*time.Second), time.Second)
	disk["fast"] = "1"
	delete(disk, "old")
	p.done(first, t0.Add(2*time.Second))
	if got := describe(p.due(t0.Add(2*time.Second), false)); got != "" {
		t.Errorf("due again are %s", got)
	}
	if got := describe(p.due(t0.Add(30*time.Second), false)); got != "fast=changed meanwhile slow=2" {
		t.Errorf("due after 30 s are %s", got)
	}
	p.retry(p.due(t0, true), t0.Add(time.Hour))
	if at, _ := p.next(); !at.Equal(t0.Add(time.Hour)) {
		t.Errorf("after a failure the next attempt is at %v", at)
	}
}

// source is an API server for the recorder to watch: the stand-in itself, whose
// tables the test changes.
type source struct {
	*fixture
	recorder *Recorder
	record   *journal.Journal
	dir      string
	stop     func()
}

func startRecorder(t *testing.T, objects ...runtime.Object) *source {
	t.Helper()
	s := &source{fixture: newFixture(t, objects...), dir: filepath.Join(t.TempDir(), "cache")}
	var err error
	if s.record, err = Open(s.dir, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

// start runs a recorder over the journal.
func (s *source) start() {
	s.t.Helper()
	reached := make(chan struct{})
	close(reached)
	s.recorder = NewRecorder(RecorderOptions{NodeName: testNode, Journal: s.record, Reached: reached, Logger: slog.New(slog.DiscardHandler)})
	s.recorder.connect = func() (clients, error) {
		dial := s.kubeletConfig().Dial
		as := func(user, group string) kubernetes.Interface {
			cfg := s.config(user+":"+testNode, group)
			cfg.Dial, cfg.Timeout = dial, 0
			c, err := newClient(cfg)
			if err != nil {
				s.t.Error(err)
			}
			return c
		}
		return clients{
			kubelet: as("system:node", "system:nodes"), proxy: as("limpet:kube-proxy", "limpet:kube-proxy"),
			network: as("limpet:network", "limpet:network"), dns: as("limpet:dns", "limpet:dns"),
		}, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.recorder.Run(ctx, func() {}); err != nil {
			s.t.Error(err)
		}
	}()
	s.stop = func() { cancel(); <-done }
}

// change replaces an object in the API server; nil removes it.
func (s *source) change(resource, namespace, name string, obj runtime.Object) {
	s.t.Helper()
	for _, table := range s.server.tables {
		if table.kind.gvr.Resource != resource {
			continue
		}
		_, err := table.remove(namespace, name, nil)
		if obj != nil {
			_, err = table.create(obj)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *source) keys() []string {
	keys := s.record.Keys("")
	slices.Sort(keys)
	return keys
}

func (s *source) awaitKeys(want ...string) {
	s.t.Helper()
	slices.Sort(want)
	end := time.Now().Add(10 * time.Second)
	for !slices.Equal(s.keys(), want) {
		if time.Now().After(end) {
			s.t.Fatalf("recorded are\n%s\nwant\n%s", joined(s.keys()), joined(want))
		}
		if err := s.recorder.flush(true); err != nil { // without the waits, which TestPending is about
			s.t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func secretPod(name, secret, claim string) *corev1.Pod {
	p := testPod(name)
	p.Spec.Volumes = []corev1.Volume{{Name: "key", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}}}
	if claim != "" {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}})
	}
	return p
}

func clusterObjects() []runtime.Object {
	namespaced := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name, Namespace: "shop"} }
	return []runtime.Object{
		boxNode(), secretPod("web", "key", "data"), secretPod("db", "key", ""),
		&corev1.Secret{ObjectMeta: namespaced("key"), Data: map[string][]byte{"password": []byte("hunter2")}},
		&corev1.Secret{ObjectMeta: namespaced("foreign")},
		&corev1.PersistentVolumeClaim{ObjectMeta: namespaced("data"), Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv-1"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}},
		&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-1"}},
		&corev1.Service{ObjectMeta: namespaced("web")},
		&discoveryv1.EndpointSlice{ObjectMeta: namespaced("web-1"), Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.1.7"}}}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "coredns", Namespace: "kube-system"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "other", Namespace: "kube-system"}},
	}
}

// What is recorded follows the pods of the node and what they refer to, over a
// restart of the recorder as well.
func TestRecorderFollows(t *testing.T) {
	t.Parallel()
	s := startRecorder(t, clusterObjects()...)
	base := []string{
		"nodes//box1", "pods/shop/web", "pods/shop/db", "secrets/shop/key", "services/shop/web", "endpointslices/shop/web-1",
		"namespaces//shop", "configmaps/kube-system/coredns", "persistentvolumeclaims/shop/data", "persistentvolumes/shop/data",
	}
	s.awaitKeys(base...)
	without := func(keys []string, gone ...string) []string {
		return slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return slices.Contains(gone, k) })
	}
	s.change(pods, "shop", "web", nil)
	rest := without(base, "pods/shop/web", "persistentvolumeclaims/shop/data", "persistentvolumes/shop/data")
	s.awaitKeys(rest...) // the Secret stays, db needs it
	s.change(secrets, "shop", "key", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "key", Namespace: "shop"}, Data: map[string][]byte{"password": []byte("new")}})
	eventually(t, "the new Secret is recorded", func() bool {
		if err := s.recorder.flush(true); err != nil {
			t.Fatal(err)
		}
		return strings.Contains(s.content()["secrets/shop/key"], "new")
	})
	// While nobody looks, the last pod goes and with it its Secret.
	s.stop()
	s.change(pods, "shop", "db", nil)
	s.start()
	s.awaitKeys(without(rest, "pods/shop/db", "secrets/shop/key")...)
}

func (s *source) content() map[string]string {
	got := map[string]string{}
	_, err := s.record.Each(func(key string, value []byte) error { got[key] = string(value); return nil })
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// A busy cluster in which nothing happens that a restart would need costs no
// write at all, and neither does a restart of the recorder.
func TestNothingIsWrittenForStatus(t *testing.T) {
	t.Parallel()
	s := startRecorder(t, clusterObjects()...)
	eventually(t, "all is recorded", func() bool {
		_ = s.recorder.flush(true)
		return len(s.keys()) == 10
	})
	before, content := s.record.Stats().Written, s.content()
	for i := range 20 {
		pod := secretPod("web", "key", "data")
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", RestartCount: int32(i)}}
		s.patchTable(pods, "shop", "web", func(o runtime.Object) {
			o.(*corev1.Pod).Status.ContainerStatuses = pod.Status.ContainerStatuses
		})
		s.patchTable(nodes, "", testNode, func(o runtime.Object) {
			o.(*corev1.Node).Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Now(), Message: fmt.Sprint(i)}}
		})
	}
	// A change that is one comes last, so that all those before have been seen.
	s.patchTable(pods, "shop", "web", func(o runtime.Object) { o.(*corev1.Pod).Labels["last"] = "yes" })
	eventually(t, "the last change is recorded", func() bool {
		_ = s.recorder.flush(true)
		return strings.Contains(s.content()["pods/shop/web"], "last")
	})
	size := int64(len(content["pods/shop/web"]))
	if written := s.record.Stats().Written - before; written < size || written > size+100 {
		t.Errorf("%d bytes were written for 40 changes of status and one label of a pod of %d bytes", written, size)
	}
	before, content = s.record.Stats().Written, s.content()
	s.stop()
	s.start()
	time.Sleep(500 * time.Millisecond) // its first lists
	_ = s.recorder.flush(true)
	if got := s.content(); !maps.Equal(got, content) || s.record.Stats().Written != before {
		t.Errorf("a restart of the recorder wrote %d bytes", s.record.Stats().Written-before)
	}
}

// patchTable changes an object in the API server.
func (s *source) patchTable(resource, namespace, name string, change func(runtime.Object)) {
	s.t.Helper()
	for _, table := range s.server.tables {
		if table.kind.gvr.Resource == resource {
			if _, err := table.update(namespace, name, func(o runtime.Object) (runtime.Object, error) { change(o); return o, nil }); err != nil {
				s.t.Fatal(err)
			}
		}
	}
}

// The record holds Secrets: nobody but root reads it.
func TestRecordIsPrivate(t *testing.T) {
	t.Parallel()
	s := startRecorder(t, clusterObjects()...)
	eventually(t, "the Secret is recorded", func() bool {
		_ = s.recorder.flush(true)
		return strings.Contains(s.content()["secrets/shop/key"], "hunter2")
	})
	found := 0
	err := filepath.WalkDir(s.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		found++
		if mode := mustStat(t, path).Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("%s has mode %v", path, mode)
		}
		return nil
	})
	if err != nil || found < 2 {
		t.Errorf("%d files, %v", found, err)
	}
}
