package snapshot

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/limpetio/limpet/datastore"
)

func openStore(t *testing.T, path string) *datastore.Store {
	t.Helper()
	s, err := datastore.Open(t.Context(), datastore.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

// A snapshot of a store that is being written to is one of its revisions: as
// each put has a revision of its own, the number of keys says which.
func TestSnapshotOfABusyStore(t *testing.T) {
	t.Parallel()
	dir, db := t.TempDir(), filepath.Join(t.TempDir(), "state.db")
	store := openStore(t, db)
	start := store.State().Revision
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			if _, err := store.Put(t.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "/k/%06d", i), Value: make([]byte, 500)}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var infos []Info
	for range 3 {
		infos = append(infos, mustSave(t, store.Log(), dir, SaveOptions{}))
	}
	stop()
	wg.Wait()
	reached := store.State().Revision
	if err := store.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, info := range infos {
		if info.Keys != max(0, info.Revision-start) { // an empty store is at revision 1, its log at 0
			t.Errorf("%d keys at revision %d, after %d", info.Keys, info.Revision, start)
		}
		if _, err := Restore(t.Context(), info.Path, db, RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		restored := openStore(t, db)
		resp, err := restored.Range(t.Context(), &pb.RangeRequest{Key: []byte("/k/"), RangeEnd: []byte("/k0"), CountOnly: true})
		if err != nil || resp.Count != info.Keys || resp.Header.Revision < reached+RevisionGap {
			t.Errorf("%v, %v; want %d keys beyond revision %d", resp, err, info.Keys, reached+RevisionGap)
		}
		_, err = restored.Range(t.Context(), &pb.RangeRequest{Key: []byte("/k/000000"), Revision: reached})
		if status.Code(err) != codes.OutOfRange {
			t.Errorf("a revision of before the restore: %v, want that it is compacted", err)
		}
		reached = resp.Header.Revision
		if err := restored.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkSave is a datastore of about 20 MiB: some 7000 objects of 2.5 kB, with
// the names and words that repeat in Kubernetes' objects.
func BenchmarkSave(b *testing.B) {
	store, err := datastore.Open(b.Context(), datastore.Options{Path: filepath.Join(b.TempDir(), "state.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = store.Close(context.Background()) }()
	for i := range 7000 {
		value := fmt.Appendf(nil, "namespace-%d/pod-%x", i%40, uint64(i)*0x9e3779b97f4a7c15)
		for j := 0; len(value) < 2500; j++ {
			value = fmt.Appendf(value, " app.kubernetes.io/name=web-%d uid-%016x", i%100, uint64(i*1000+j)*0x9e3779b97f4a7c15)
		}
		if _, err := store.Put(b.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "/registry/pods/%d", i), Value: value}); err != nil {
			b.Fatal(err)
		}
	}
	dir := b.TempDir()
	var info Info
	b.Run("save", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if info, err = Save(b.Context(), store.Log(), dir, SaveOptions{Node: "n"}); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(info.Size), "db-bytes")
		b.ReportMetric(float64(info.Bytes), "file-bytes")
	})
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Verify(b.Context(), info.Path, ""); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("restore", func(b *testing.B) {
		db := filepath.Join(b.TempDir(), "state.db")
		for b.Loop() {
			if _, err := Restore(b.Context(), info.Path, db, RestoreOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
