package transfer

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.uber.org/zap"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// TestEtcdRoundTrip: etcd → Limpet → etcd → Limpet.
func TestEtcdRoundTrip(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := startEtcd(t, filepath.Join(dir, "etcd"))
	fillEtcd(t, e, 10_000)
	had, revision := dumpEtcd(t, e)

	path := filepath.Join(dir, "limpet.db")
	var done, total int64
	report, err := ImportEtcd(t.Context(), EtcdConfig{Endpoints: []string{e.endpoint}}, path,
		Options{Progress: func(d, n int64) { done, total = d, n }})
	if err != nil {
		t.Fatal(err)
	}
	if report.Keys != int64(len(had)) || done != report.Keys || total != report.Keys || report.Leases != 5 ||
		report.SourceRevision != revision || report.Revision != revision+sqlog.DefaultMargin {
		t.Errorf("report %+v, progress %d of %d; want %d keys at %d", report, done, total, len(had), revision)
	}
	s := openStore(t, path)
	compare(t, dumpStore(t, s), had)
	checkLive(t, s, report)
	must[*pb.DeleteRangeResponse](t)(s.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("/new")}))
	checkSnapshotOfEtcd(t, e, had, revision)
	e.stop()

	out := filepath.Join(dir, "snapshot.db")
	exported, err := ExportEtcdSnapshot(t.Context(), s, out, Options{})
	if err != nil {
		t.Fatal(err)
	}
	state := s.State()
	if exported.Keys != report.Keys || exported.Leases != 5 || exported.Revision != state.Revision {
		t.Errorf("report %+v", exported)
	}
	status, err := snapshot.NewV3(zap.NewNop()).Status(out)
	if err != nil || status.Revision != state.Revision || status.TotalKey != state.Len() {
		t.Errorf("etcdutl says %+v, %v", status, err)
	}
	restored := restoreEtcd(t, out)
	got, now := dumpEtcd(t, restored)
	compare(t, got, had)
	if now != state.Revision {
		t.Errorf("etcd is at revision %d, want %d", now, state.Revision)
	}
	checkEtcd(t, restored, state.Revision)

	again := filepath.Join(dir, "again.db")
	if report, err = ImportEtcdSnapshot(t.Context(), out, again, Options{Margin: -1}); err != nil {
		t.Fatal(err)
	}
	if report.SourceRevision != state.Revision || report.Revision != state.Revision+1 || report.Leases != 5 {
		t.Errorf("report %+v", report)
	}
	compare(t, dumpStore(t, openStore(t, again)), had)
}

// checkSnapshotOfEtcd imports what etcd itself makes: with its history.
func checkSnapshotOfEtcd(t *testing.T, e *etcd, had map[string]entry, revision int64) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "snapshot.db")
	saveSnapshot(t, e, path)
	for _, o := range []Options{{}, {NoTrailer: true, Replace: true}} {
		report, err := ImportEtcdSnapshot(t.Context(), path, filepath.Join(dir, "limpet.db"), o)
		if err != nil {
			t.Fatal(err)
		}
		if report.Keys != int64(len(had)) || report.SourceRevision != revision || report.Leases != 5 || (report.Kept != "") != o.Replace {
			t.Errorf("report %+v", report)
		}
	}
	s := openStore(t, filepath.Join(dir, "limpet.db"))
	compare(t, dumpStore(t, s), had)
}

func saveSnapshot(t *testing.T, e *etcd, path string) {
	t.Helper()
	r, err := e.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		t.Fatal(err)
	}
}

// checkEtcd makes sure that an etcd works with what was exported.
func checkEtcd(t *testing.T, e *etcd, revision int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := e.Get(ctx, "/registry/big", clientv3.WithRev(revision-1)); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("reading before the export: %v", err)
	}
	watch := e.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(revision+1))
	put := must[*clientv3.PutResponse](t)(e.Put(ctx, "/registry/changed", "6", clientv3.WithPrevKV()))
	if put.Header.Revision != revision+1 || put.PrevKv.Version != 5 {
		t.Errorf("put: %+v", put)
	}
	resp := <-watch
	if err := resp.Err(); err != nil || len(resp.Events) != 1 || resp.Events[0].Kv.ModRevision != revision+1 || resp.Events[0].Kv.Version != 6 {
		t.Errorf("watch: %+v, %v", resp, err)
	}
	before, now := dumpEtcd(t, e)
	must[*clientv3.CompactResponse](t)(e.Compact(ctx, now, clientv3.WithCompactPhysical()))
	after, _ := dumpEtcd(t, e)
	compare(t, after, before)

	// Leases hold their keys.
	leases := map[int64]int64{}
	for _, entry := range before {
		if entry.lease != 0 {
			leases[entry.lease]++
		}
	}
	for id, keys := range leases {
		must[*clientv3.LeaseRevokeResponse](t)(e.Revoke(ctx, clientv3.LeaseID(id)))
		left, _ := dumpEtcd(t, e)
		if int64(len(before)-len(left)) != keys {
			t.Errorf("revoking lease %d left %d of %d keys", id, len(left), len(before))
		}
		break
	}
}

func TestImportEtcdPrefix(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := startEtcd(t, filepath.Join(dir, "etcd"))
	fillEtcd(t, e, 10)
	had, _ := dumpEtcd(t, e)
	maps.DeleteFunc(had, func(k string, _ entry) bool { return k[0] != '/' })
	path := filepath.Join(dir, "limpet.db")
	cfg := EtcdConfig{Endpoints: []string{e.endpoint}, Prefix: "/"}
	if _, err := ImportEtcd(t.Context(), cfg, path, Options{}); err != nil {
		t.Fatal(err)
	}
	compare(t, dumpStore(t, openStore(t, path)), had)

	empty := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	_, err := ImportEtcd(ctx, cfg, filepath.Join(empty, "limpet.db"), Options{Progress: func(int64, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) || len(files(t, empty)) > 0 {
		t.Errorf("cancelled: %v, files %v", err, files(t, empty))
	}
}

// TestRestoredEtcd: etcdutl raises the revision with a record that has no key.
func TestRestoredEtcd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, filepath.Join(dir, "limpet.db"))
	must[*pb.PutResponse](t)(s.Put(t.Context(), &pb.PutRequest{Key: []byte("/a"), Value: []byte("1")}))
	out := filepath.Join(dir, "snapshot.db")
	if _, err := ExportEtcdSnapshot(t.Context(), s, out, Options{}); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	err := snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath: out, Name: "one", OutputDataDir: data, PeerURLs: []string{etcdPeer},
		InitialCluster: "one=" + etcdPeer, RevisionBump: 1000, MarkCompacted: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	// Its own database, without a trailer.
	db := filepath.Join(data, "member", "snap", "db")
	if _, err := ImportEtcdSnapshot(t.Context(), db, filepath.Join(dir, "no.db"), Options{}); !errors.Is(err, ErrForeign) {
		t.Errorf("import without a trailer: %v", err)
	}
	report, err := ImportEtcdSnapshot(t.Context(), db, filepath.Join(dir, "yes.db"), Options{NoTrailer: true})
	if err != nil || report.Keys != 1 || report.SourceRevision != s.State().Revision+1000 {
		t.Errorf("report %+v, %v", report, err)
	}
}
