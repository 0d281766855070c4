package transfer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/datastore/sqlog"
)

// fromKine is what a store should have after an import of what kine had.
func fromKine(t *testing.T, had map[string]entry) map[string]entry {
	t.Helper()
	want := map[string]entry{}
	for key, e := range had {
		e.version = 2
		if e.mod == e.create {
			e.version = 1
		}
		if key == kineCompactAPI {
			key, e.version, e.value = compactKey, 7, "123"
		}
		want[key] = e
	}
	return want
}

func TestKineRoundTrip(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, dst, back := filepath.Join(dir, "kine.db"), filepath.Join(dir, "limpet.db"), filepath.Join(dir, "back.db")
	k := openKineDB(t, src)
	fillKine(t, k, 10_000)
	had, revision := dumpKine(t, k)
	k.close()

	var done, total int64
	report, err := ImportKine(t.Context(), src, dst, Options{Progress: func(d, n int64) { done, total = d, n }})
	if err != nil {
		t.Fatal(err)
	}
	if report.Keys != int64(len(had)) || done != report.Keys || total != report.Keys || report.Leases != 4 || report.InUse {
		t.Errorf("report %+v, progress %d of %d, want %d keys", report, done, total, len(had))
	}
	if report.SourceRevision != revision || report.Revision != revision+sqlog.DefaultMargin {
		t.Errorf("report %+v, want revision %d", report, revision)
	}
	s := openStore(t, dst)
	got := dumpStore(t, s)
	compare(t, without(got, func(e *entry) { e.lease = 0 }), fromKine(t, had))
	checkLive(t, s, report)

	// And back, through what happened meanwhile.
	exported, err := ExportKine(t.Context(), s, back, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if exported.Keys != report.Keys+1 || exported.Moved != 0 || exported.Dropped != 0 {
		t.Errorf("report %+v", exported)
	}
	want := without(dumpStore(t, s), func(e *entry) { e.lease, e.version = 0, 0 })
	want[kineCompactAPI] = had[kineCompactAPI]
	delete(want, compactKey)
	k = openKineDB(t, back)
	got, now := dumpKine(t, k)
	compare(t, got, want)
	if now != s.State().Revision || now != exported.Revision {
		t.Errorf("kine is at revision %d, and the export says %d, of %d", now, exported.Revision, s.State().Revision)
	}
	checkKine(t, k, now)
}

// checkLive makes sure that a store that was imported works, and that nothing
// before the import can be read. It adds the key /new.
func checkLive(t *testing.T, s *datastore.Store, report Report) {
	t.Helper()
	if opened := s.Opened(); !opened.Clean || opened.Bumped {
		t.Errorf("opened as %+v", opened)
	}
	if state := s.State(); state.Revision != report.Revision || state.Compacted != report.Revision {
		t.Errorf("revision %d, compacted %d, want %d", state.Revision, state.Compacted, report.Revision)
	}
	_, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte("/x"), Revision: report.Revision - 1})
	if !errors.Is(err, rpctypes.ErrGRPCCompacted) {
		t.Errorf("reading before the import: %v", err)
	}
	put := must[*pb.PutResponse](t)(s.Put(t.Context(), &pb.PutRequest{Key: []byte("/new"), Value: []byte("new")}))
	if put.Header.Revision != report.Revision+1 {
		t.Errorf("the next revision is %d after %d", put.Header.Revision, report.Revision)
	}
}

// checkKine makes sure that kine works with a database that was exported: it
// writes, watches and compacts.
func checkKine(t *testing.T, k *kineDB, revision int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watch := k.Watch(ctx, revision+1)
	if rev, err := k.Create(ctx, "/kine/new", []byte("1"), 0); err != nil || rev != revision+1 {
		t.Fatalf("create: revision %d, %v; want %d", rev, err, revision+1)
	}
	if rev, _, ok, err := k.Update(ctx, "/kine/new", []byte("2"), revision+1, 0); err != nil || !ok || rev != revision+2 {
		t.Fatalf("update: revision %d, %v, %v", rev, ok, err)
	}
	for seen := 0; seen < 2; {
		batch, ok := <-watch.Eventc
		if !ok {
			t.Fatal("the watch ended")
		}
		for _, e := range batch.Events {
			seen++
			if e.KV.Key != "/kine/new" || e.KV.ModRevision != revision+int64(seen) {
				t.Errorf("event %d: %+v", seen, e.KV)
			}
		}
	}
	for _, key := range append(oddKeys(), "/registry/again", "/registry/big") {
		_, kv, err := k.Get(ctx, key, 0, false)
		if err != nil || kv == nil {
			t.Fatalf("get %q: %v, %v", key, kv, err)
		}
		if _, _, ok, err := k.Update(ctx, key, []byte("changed"), kv.ModRevision, 0); err != nil || !ok {
			t.Errorf("update %q: %v, %v", key, ok, err)
		}
	}
	if _, _, ok, err := k.Delete(ctx, "/registry/empty", 0); err != nil || !ok {
		t.Errorf("delete: %v, %v", ok, err)
	}
	before, now := dumpKine(t, k)
	if _, err := k.Compact(ctx, now-10); err != nil {
		t.Fatal(err)
	}
	after, _ := dumpKine(t, k)
	compare(t, after, before)
	if _, _, err := k.List(ctx, "/", "0", 0, revision-1, false); err == nil {
		t.Error("a revision before the export can be read")
	}
}

func TestImportKineInUse(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	db := filepath.Join(data, "server", "db")
	path := filepath.Join(db, "state.db")
	mkdir(t, db)
	kill := startKine(t, path, true)

	// It is read as it is, with what is only in the WAL.
	dst := filepath.Join(t.TempDir(), "limpet.db")
	before := files(t, db)
	if before["state.db-wal"] == "" {
		t.Fatal("there is no WAL")
	}
	report, err := ImportKine(t.Context(), path, dst, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !report.InUse || report.Keys < 100 {
		t.Errorf("report %+v", report)
	}
	if _, err := importInPlace(t, data); !errors.Is(err, ErrInUse) {
		t.Errorf("in place while it is in use: %v", err)
	}
	after := files(t, db)
	delete(before, "state.db-shm") // holds the readers
	delete(after, "state.db-shm")
	if !maps.Equal(after, before) {
		t.Errorf("the source changed: %v, before %v", after, before)
	}

	// As after a power cut.
	kill()
	inPlace, err := importInPlace(t, data)
	if err != nil {
		t.Fatal(err)
	}
	if inPlace.InUse || inPlace.Keys != report.Keys || inPlace.Kept == "" {
		t.Errorf("report %+v, before %+v", inPlace, report)
	}
	after = files(t, db)
	kept := filepath.Base(inPlace.Kept)
	if after[kept] != before["state.db"] || after[kept+"-wal"] != before["state.db-wal"] || len(after) != 4 {
		t.Errorf("files %v, before %v", after, before)
	}
	compare(t, dumpStore(t, openStore(t, path)), dumpStore(t, openStore(t, dst)))

	// What was kept is still a kine database.
	again, err := ImportKine(t.Context(), inPlace.Kept, filepath.Join(t.TempDir(), "again.db"), Options{})
	if err != nil || again.Keys != report.Keys {
		t.Errorf("import of what was kept: %+v, %v", again, err)
	}
	if _, err := importInPlace(t, data); !errors.Is(err, ErrForeign) && !errors.Is(err, sqlog.ErrInUse) {
		t.Errorf("in place for the second time: %v", err)
	}
}

// TestExportKineShared: keys that were changed in one transaction, and a store
// whose revision 1 is taken.
func TestExportKineShared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, filepath.Join(dir, "limpet.db"))
	var ops []*pb.RequestOp
	for i := range 5 {
		ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
			RequestPut: &pb.PutRequest{Key: fmt.Appendf(nil, "/shared/%d", i), Value: []byte("v")},
		}})
	}
	txn := must[*pb.TxnResponse](t)(s.Txn(t.Context(), &pb.TxnRequest{Success: ops}))
	must[*pb.PutResponse](t)(s.Put(t.Context(), &pb.PutRequest{Key: []byte("/alone"), Value: []byte("v")}))

	path := filepath.Join(dir, "kine.db")
	report, err := ExportKine(t.Context(), s, path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if report.Keys != 6 || report.Moved != 4 || report.Revision != s.State().Revision+4 {
		t.Errorf("report %+v", report)
	}
	got, revision := dumpKine(t, openKineDB(t, path))
	if revision < report.Revision || len(got) < 6 || got["/shared/0"].mod != txn.Header.Revision || got["/alone"].mod != s.State().Revision {
		t.Errorf("revision %d: %+v", revision, got)
	}
	for i := 1; i < 5; i++ {
		if e := got[fmt.Sprintf("/shared/%d", i)]; e.mod <= s.State().Revision || e.create != txn.Header.Revision {
			t.Errorf("key %d: %+v", i, e)
		}
	}
}

func TestExportEmpty(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, filepath.Join(dir, "limpet.db"))
	path := filepath.Join(dir, "kine.db")
	if _, err := ExportKine(t.Context(), s, path, Options{}); err != nil {
		t.Fatal(err)
	}
	report, err := ImportKine(t.Context(), path, filepath.Join(dir, "again.db"), Options{Margin: -1})
	if err != nil || report.Keys != 0 || report.Revision != 2 {
		t.Errorf("report %+v, %v", report, err)
	}
	snapshot := filepath.Join(dir, "snapshot.db")
	if _, err := ExportEtcdSnapshot(t.Context(), s, snapshot, Options{}); err != nil {
		t.Fatal(err)
	}
	report, err = ImportEtcdSnapshot(t.Context(), snapshot, filepath.Join(dir, "again2.db"), Options{Margin: -1})
	if err != nil || report.Keys != 0 || report.Revision != 2 {
		t.Errorf("report %+v, %v", report, err)
	}
}

// importInPlace is what `limpet datastore import --replace DIR` does in DIR itself:
// k3s and limpet have their database at the same place.
func importInPlace(t *testing.T, dataDir string) (Report, error) {
	t.Helper()
	path := filepath.Join(dataDir, "server", "db", "state.db")
	return ImportKine(t.Context(), path, path, Options{Replace: true})
}
