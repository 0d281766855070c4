package standin

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/agent/standin/journal"
	"github.com/limpetio/limpet/internal/pki"
)

const testNode = "box1"

// fixture is a stand-in with the authorities of a cluster.
type fixture struct {
	t       *testing.T
	server  *Server
	journal *journal.Journal
	reached chan struct{}
	ca      *pki.Authority
	trust   string
	ended   chan struct{}
}

// newFixture serves the objects given from a record.
func newFixture(t *testing.T, objects ...runtime.Object) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{t: t, reached: make(chan struct{}), trust: filepath.Join(dir, "local-ca.crt"), ended: make(chan struct{})}
	var err error
	if f.ca, err = pki.Open(filepath.Join(dir, "tls"), pki.Options{}); err != nil {
		t.Fatal(err)
	}
	if f.journal, err = Open(filepath.Join(dir, "cache"), slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	f.record(objects...)
	f.server, err = New(Options{
		NodeName: testNode, ClientCA: f.ca.Client.Bundle(), Journal: f.journal,
		Reached: f.reached, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.server.WriteTrust(f.trust, f.ca.Server.Bundle()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(f.ended)
		if err := f.server.Run(ctx, func() {}); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-f.ended
		_ = f.journal.Close()
	})
	return f
}

// record writes objects as the recorder does.
func (f *fixture) record(objects ...runtime.Object) {
	f.t.Helper()
	for _, obj := range objects {
		small := slim(obj, testNode)
		m := small.(metav1.Object)
		data, err := encode(small)
		if err != nil {
			f.t.Fatal(err)
		}
		resource := ""
		for _, k := range catalog() {
			if k.recorded && sameType(k.newObject(), obj) {
				resource = k.gvr.Resource
			}
		}
		key := journalKey(resource, m.GetNamespace(), m.GetName())
		if err := f.journal.Apply([]journal.Change{{Key: key, Value: data}}); err != nil {
			f.t.Fatal(err)
		}
	}
}

func sameType(a, b runtime.Object) bool {
	return reflect.TypeOf(a) == reflect.TypeOf(b)
}

// config is how a component with the user and group reaches the stand-in.
func (f *fixture) config(user, group string) *rest.Config {
	f.t.Helper()
	issued, err := f.ca.Client.Ensure(filepath.Base(f.t.Name())+"-"+group, pki.Leaf{
		CommonName: user, Organizations: []string{group}, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return &rest.Config{
		Host: "https://127.0.0.1:6444", QPS: -1, Timeout: 20 * time.Second,
		TLSClientConfig: rest.TLSClientConfig{CAFile: f.trust, CertFile: issued.Cert, KeyFile: issued.Key},
		Dial:            func(ctx context.Context, _, _ string) (net.Conn, error) { return f.server.Dial(ctx) },
	}
}

// kubeletConfig is the kubelet's, in the format that it uses.
func (f *fixture) kubeletConfig() *rest.Config {
	cfg := f.config("system:node:"+testNode, "system:nodes")
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return cfg
}

func clientFor(t *testing.T, cfg *rest.Config) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (f *fixture) kubelet() kubernetes.Interface { return clientFor(f.t, f.kubeletConfig()) }

func testPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID("uid-" + name), Labels: map[string]string{"app": name}, ResourceVersion: "77"},
		Spec: corev1.PodSpec{
			NodeName: testNode, RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{Name: "main", Image: "busybox"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.42.1.7"},
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func mustStat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func (f *fixture) proxy() kubernetes.Interface {
	return clientFor(f.t, f.config("limpet:kube-proxy:"+testNode, "limpet:kube-proxy"))
}
