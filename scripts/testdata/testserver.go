// Package testserver is the server that Kubernetes' own storage tests start:
// limpet's datastore in the place of etcd.
//
// scripts/test-datastore puts this file in the place of the package of the same
// name, k8s.io/apiserver/pkg/storage/etcd3/testserver, of a copy of the module.
// That is why names and signatures are those of that package, and why the
// configuration is etcd's: the tests change it. Of that, what is about the
// listener, TLS, the directory and progress notifications is honoured; the rest
// is about what a datastore without Raft does not have.
package testserver

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"

	"github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/datastore/etcdapi"
)

// maxPath is how long a unix socket's path may be.
const maxPath = 107

// NewTestConfig is the configuration of a server on a unix socket, which a test
// may change before it starts the server.
func NewTestConfig(t testing.TB) *embed.Config {
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	// To etcd's client the name is that of the host; the tests' certificate is for
	// this one.
	cfg.ListenClientUrls = []url.URL{{Scheme: "unix", Path: filepath.Join(cfg.Dir, "localhost")}}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	return cfg
}

// RunEtcd starts a server, with NewTestConfig if there is no configuration, and
// returns a client. Both end with the test.
func RunEtcd(t testing.TB, cfg *embed.Config) *kubernetes.Client {
	t.Helper()
	if cfg == nil {
		cfg = NewTestConfig(t)
	}
	serve(t, cfg, open(t, cfg))
	return dial(t, cfg)
}

// open opens a store as limpet has it: what it has answered is on the disk.
func open(t testing.TB, cfg *embed.Config) *datastore.Store {
	t.Helper()
	store, err := datastore.Open(context.Background(), datastore.Options{
		Path:   filepath.Join(cfg.Dir, "state.db"),
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return store
}

func serve(t testing.TB, cfg *embed.Config, store *datastore.Store) {
	t.Helper()
	socket := cfg.ListenClientUrls[0].Path
	if len(socket) > maxPath {
		t.Fatalf("the path of the socket is too long: %s; set TMPDIR to a shorter one", socket)
	}
	listener, err := etcdapi.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	if !cfg.ClientTLSInfo.Empty() {
		// Limpet has no use for TLS on a socket, but there is a test of the client's.
		config, err := cfg.ClientTLSInfo.ServerConfig()
		if err != nil {
			t.Fatal(err)
		}
		listener = tls.NewListener(listener, config)
	}
	server := etcdapi.New(etcdapi.Options{
		Socket: socket, Store: store, ProgressInterval: cfg.WatchProgressNotifyInterval,
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		server.Stop(ctx)
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// dial returns a client that records what it asks, as some tests look at that.
func dial(t testing.TB, cfg *embed.Config) *kubernetes.Client {
	t.Helper()
	config := clientv3.Config{
		Endpoints:   []string{"unix://" + cfg.ListenClientUrls[0].Path},
		DialTimeout: 10 * time.Second,
		Logger:      zaptest.NewLogger(t, zaptest.Level(zapcore.ErrorLevel)).Named("etcd-client"),
	}
	if !cfg.ClientTLSInfo.Empty() {
		var err error
		if config.TLS, err = cfg.ClientTLSInfo.ClientConfig(); err != nil {
			t.Fatal(err)
		}
		config.Endpoints[0] = "unixs://" + cfg.ListenClientUrls[0].Path
	}
	client, err := kubernetes.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	recorder := storagetesting.NewKubernetesRecorder(client.Kubernetes)
	client.KV, client.Kubernetes = storagetesting.NewKVRecorder(client.KV, recorder), recorder
	return client
}
