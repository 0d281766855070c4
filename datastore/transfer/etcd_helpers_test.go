package transfer

import (
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

// etcd is a real one, in this process.
type etcd struct {
	*clientv3.Client
	endpoint string
	stop     func()
}

const etcdPeer = "http://127.0.0.1:1" // the only member asks nobody

func startEtcd(t *testing.T, dir string) *etcd {
	t.Helper()
	local := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	peer := must[*url.URL](t)(url.Parse(etcdPeer))
	cfg := embed.NewConfig()
	cfg.Dir, cfg.Name, cfg.ZapLoggerBuilder = dir, "one", embed.NewZapLoggerBuilder(zap.NewNop())
	cfg.ListenClientUrls, cfg.ListenPeerUrls = []url.URL{local}, []url.URL{local}
	cfg.AdvertiseClientUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.InitialCluster = "one=" + etcdPeer
	cfg.UnsafeNoFsync = true
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e := &etcd{stop: sync.OnceFunc(server.Close)}
	t.Cleanup(e.stop)
	select {
	case <-server.Server.ReadyNotify():
	case err := <-server.Err():
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("etcd is not ready after a minute")
	}
	e.endpoint = "http://" + server.Clients[0].Addr().String()
	e.Client, err = clientv3.New(clientv3.Config{Endpoints: []string{e.endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// restoreEtcd starts an etcd from a snapshot, as etcdutl does it.
func restoreEtcd(t *testing.T, path string) *etcd {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: path, Name: "one", OutputDataDir: dir, PeerURLs: []string{etcdPeer},
		InitialCluster: "one=" + etcdPeer, InitialClusterToken: "etcd-cluster",
	})
	if err != nil {
		t.Fatal(err)
	}
	return startEtcd(t, dir)
}

func dumpEtcd(t *testing.T, e *etcd) (map[string]entry, int64) {
	t.Helper()
	resp, err := e.Get(t.Context(), "\x00", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	out, ttls := map[string]entry{}, map[int64]int64{}
	for _, kv := range resp.Kvs {
		n := entry{value: short(kv.Value), mod: kv.ModRevision, create: kv.CreateRevision, version: kv.Version, lease: kv.Lease}
		if kv.Lease != 0 {
			if ttls[kv.Lease] == 0 {
				ttl, err := e.TimeToLive(t.Context(), clientv3.LeaseID(kv.Lease))
				if err != nil || ttl.TTL < 0 {
					t.Fatalf("lease %d of %q: %+v, %v", kv.Lease, kv.Key, ttl, err)
				}
				ttls[kv.Lease] = ttl.GrantedTTL
			}
			n.ttl = ttls[kv.Lease]
		}
		out[string(kv.Key)] = n
	}
	return out, resp.Header.Revision
}

// fillEtcd writes what an etcd can have.
func fillEtcd(t *testing.T, e *etcd, keys int) {
	t.Helper()
	ctx := t.Context()
	leases := make([]clientv3.LeaseID, 5)
	for i := range leases {
		leases[i] = must[*clientv3.LeaseGrantResponse](t)(e.Grant(ctx, int64(1000+i))).ID
	}
	put := func(key string, value []byte, opts ...clientv3.OpOption) {
		must[*clientv3.PutResponse](t)(e.Put(ctx, key, string(value), opts...))
	}
	for i := 0; i < keys; { // many keys in a revision
		var ops []clientv3.Op
		for ; len(ops) < 100 && i < keys; i++ {
			var opts []clientv3.OpOption
			if i%4 == 0 {
				opts = append(opts, clientv3.WithLease(leases[i%len(leases)]))
			}
			// In another order than that of the keys.
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/registry/%02d/p%05d", 99-i%100, i), fmt.Sprint(i), opts...))
		}
		must[*clientv3.TxnResponse](t)(e.Txn(ctx).Then(ops...).Commit())
	}
	put("/registry/empty", nil)
	put("/registry/big", big())
	for _, key := range oddKeys() {
		put(key, []byte(key))
	}
	put("compact_rev_key", []byte("1"))
	for i := range 5 {
		put("/registry/changed", fmt.Append(nil, i))
	}
	put("/registry/again", []byte("1"))
	must[*clientv3.DeleteResponse](t)(e.Delete(ctx, "/registry/again"))
	put("/registry/again", []byte("2"))
	put("/registry/gone/1", []byte("1"), clientv3.WithLease(leases[0]))
	put("/registry/gone/2", []byte("1"))
	must[*clientv3.DeleteResponse](t)(e.Delete(ctx, "/registry/gone/", clientv3.WithPrefix())) // the last change
}
