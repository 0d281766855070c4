package transfer

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/limpetio/limpet/datastore"
)

// TestExportHot exports while others write, and compares with what the store
// itself says about that revision.
func TestExportHot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, filepath.Join(dir, "limpet.db"))
	put := func(key, value string) {
		if _, err := s.Put(context.Background(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
			t.Error(err)
		}
	}
	for i := range 2000 {
		put(fmt.Sprintf("/k/%04d", i), "0")
	}
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				put(fmt.Sprintf("/k/%04d", (n*4+w)*7%2500), fmt.Sprint(n))
				if n%10 == 0 {
					_, _ = s.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: fmt.Appendf(nil, "/k/%04d", n%2500)})
				}
			}
		})
	}
	type result struct {
		path   string
		report Report
	}
	var results []result
	for i := range 5 {
		path := filepath.Join(dir, fmt.Sprint("snapshot", i))
		report, err := ExportEtcdSnapshot(ctx, s, path, Options{NoTrailer: i%2 == 0})
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, result{path, report})
	}
	stop()
	writers.Wait()
	for i, r := range results {
		resp, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: r.report.Revision})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]entry{}
		for _, kv := range resp.Kvs {
			want[string(kv.Key)] = entry{value: string(kv.Value), mod: kv.ModRevision, create: kv.CreateRevision, version: kv.Version}
		}
		again := filepath.Join(dir, fmt.Sprint("again", i))
		if _, err := ImportEtcdSnapshot(t.Context(), r.path, again, Options{NoTrailer: true}); err != nil {
			t.Fatal(err)
		}
		compare(t, dumpStore(t, openStore(t, again)), want)
	}
}

// TestExportCompacted: what is being exported is overwritten and compacted away
// before it is read.
func TestExportCompacted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := datastore.Open(t.Context(), datastore.Options{Path: filepath.Join(dir, "limpet.db"), CacheValue: 1}) // values are on the disk
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	const keys = 1200
	write := func(value string) {
		for i := 0; i < keys; i += 100 {
			var ops []*pb.RequestOp
			for j := range 100 {
				put := &pb.PutRequest{Key: fmt.Appendf(nil, "/k/%04d", i+j), Value: []byte(value)}
				ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
			}
			must[*pb.TxnResponse](t)(s.Txn(t.Context(), &pb.TxnRequest{Success: ops}))
		}
	}
	write("first")
	times := 0
	report, err := ExportEtcdSnapshot(t.Context(), s, filepath.Join(dir, "snapshot"), Options{Progress: func(done, total int64) {
		if times++; times > 1 {
			return
		}
		write("second")
		must[int64](t)(s.Compact(t.Context(), s.State().Revision))
		for s.Log().Stats().Rows > keys+10 { // until it is swept; the last revision stays whole
			must[*pb.PutResponse](t)(s.Put(t.Context(), &pb.PutRequest{Key: []byte("/k/0000"), Value: []byte("second")}))
			must[int64](t)(s.Compact(t.Context(), s.State().Revision))
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if report.Keys != keys || report.Revision != s.State().Revision {
		t.Errorf("report %+v", report)
	}
	again := filepath.Join(dir, "again")
	must[Report](t)(ImportEtcdSnapshot(t.Context(), filepath.Join(dir, "snapshot"), again, Options{}))
	compare(t, dumpStore(t, openStore(t, again)), dumpStore(t, s))
}
