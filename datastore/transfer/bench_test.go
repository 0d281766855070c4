package transfer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/limpetio/limpet/datastore"
)

// BenchmarkTransfer moves 20 000 keys with values of 2 KiB: a large cluster for
// the edge. Each direction is timed on its own.
func BenchmarkTransfer(b *testing.B) {
	dir := b.TempDir()
	s, err := datastore.Open(b.Context(), datastore.Options{Path: filepath.Join(dir, "limpet.db"), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close(context.Background()) }()
	value := make([]byte, 0, 2048)
	for i := 0; i < 20_000; i += 100 {
		var ops []*pb.RequestOp
		for j := range 100 {
			value = value[:0]
			for sum := sha256.Sum256(fmt.Append(nil, i+j)); len(value) < 2048; sum = sha256.Sum256(sum[:]) {
				value = append(value, sum[:]...)
			}
			put := &pb.PutRequest{Key: fmt.Appendf(nil, "/registry/pods/default/pod-%06d", i+j), Value: append([]byte(nil), value...)}
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		if _, err := s.Txn(b.Context(), &pb.TxnRequest{Success: ops}); err != nil {
			b.Fatal(err)
		}
	}
	kine, snapshot := filepath.Join(dir, "kine.db"), filepath.Join(dir, "snapshot.db")
	for _, step := range []struct {
		name, file string
		run        func(dst string) (Report, error)
	}{
		{"ExportKine", kine, func(dst string) (Report, error) { return ExportKine(b.Context(), s, dst, Options{}) }},
		{"ImportKine", "", func(dst string) (Report, error) { return ImportKine(b.Context(), kine, dst, Options{}) }},
		{"ExportEtcdSnapshot", snapshot, func(dst string) (Report, error) { return ExportEtcdSnapshot(b.Context(), s, dst, Options{}) }},
		{"ImportEtcdSnapshot", "", func(dst string) (Report, error) {
			return ImportEtcdSnapshot(b.Context(), snapshot, dst, Options{})
		}},
	} {
		b.Run(step.name, func(b *testing.B) {
			for b.Loop() {
				dst := step.file
				if dst == "" {
					dst = filepath.Join(dir, step.name)
				}
				_ = os.Remove(dst)
				report, err := step.run(dst)
				if err != nil {
					b.Fatal(err)
				}
				info, err := os.Stat(dst)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(report.Bytes)
				b.ReportMetric(float64(info.Size())/float64(report.Bytes), "file/content")
			}
		})
	}
}
