package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"google.golang.org/protobuf/proto"

	"github.com/limpetio/limpet/datastore/engine"
)

// ExportEtcdSnapshot writes the present state as a snapshot from which etcdutl
// (or etcdctl) snapshot restore makes the data directory of an etcd, and which
// ImportEtcdSnapshot reads. The source may be in use: it is exported as of one
// revision, and commits go on.
//
// The snapshot has the fields of etcd 3.5 and does not claim a storage version,
// which 3.6 and later add at their first start. So 3.4 to 3.7 can read it.
func ExportEtcdSnapshot(ctx context.Context, source Source, path string, o Options) (Report, error) {
	return exportTo(ctx, "etcd snapshot", path, o, func(ctx context.Context, file string) (Report, error) {
		e := newExport(source, o)
		size, err := e.writeSnapshot(ctx, file)
		if err != nil {
			return e.report, err
		}
		return e.report, seal(ctx, file, size, !o.NoTrailer)
	})
}

// writeSnapshot makes the database. It returns how much of the file counts.
func (e *export) writeSnapshot(ctx context.Context, file string) (size int64, err error) {
	db, err := bolt.Open(file, 0o600, &bolt.Options{
		NoSync: true, NoGrowSync: true, // it is synced as a whole
		NoFreelistSync: true, FreelistType: bolt.FreelistMapType,
		PageSize: 4096, // also where pages are larger: etcd reads its size from the file
	})
	if err != nil {
		return 0, err
	}
	defer db.Close()
	if err := db.Update(e.putMeta); err != nil {
		return 0, err
	}
	err = e.batches(ctx, func(versions []*engine.Version, values [][]byte) error {
		return db.Update(func(tx *bolt.Tx) error { return putVersions(tx, versions, values) })
	})
	if err != nil {
		return 0, err
	}
	if err := db.Update(e.putEnd); err != nil {
		return 0, err
	}
	err = db.View(func(tx *bolt.Tx) error {
		size = tx.Size()
		if n := int64(tx.Bucket([]byte(bucketKey)).Stats().KeyN); n < e.report.Keys {
			return fmt.Errorf("%d keys were written, but %d are there", e.report.Keys, n)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return size, db.Close()
}

// putMeta makes the buckets, and puts in what is not keys.
func (e *export) putMeta(tx *bolt.Tx) error {
	for _, name := range snapshotBuckets() {
		if _, err := tx.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	one := binary.BigEndian.AppendUint64(nil, 1)
	compacted := etcdRevision(e.state.Revision, 0)
	for name, value := range map[string][]byte{
		metaIndex: one, metaTerm: one, // of a Raft log that does not exist: restore starts a new one
		metaScheduled: compacted, metaFinished: compacted,
	} {
		if err := tx.Bucket([]byte(bucketMeta)).Put([]byte(name), value); err != nil {
			return err
		}
	}
	for _, lease := range e.state.Leases() {
		value, err := proto.Marshal(&leasepb.Lease{ID: lease.ID, TTL: lease.TTL})
		if err != nil {
			return err
		}
		id := binary.BigEndian.AppendUint64(nil, uint64(lease.ID))
		if err := tx.Bucket([]byte(bucketLease)).Put(id, value); err != nil {
			return err
		}
	}
	return nil
}

func putVersions(tx *bolt.Tx, versions []*engine.Version, values [][]byte) error {
	bucket := tx.Bucket([]byte(bucketKey))
	bucket.FillPercent = 0.95 // keys only come at the end
	for i, v := range versions {
		value, err := proto.Marshal(v.KV(values[i]))
		if err != nil {
			return err
		}
		sub := v.ID - engine.ID(v.ModRevision(), 0)
		if err := bucket.Put(etcdRevision(v.ModRevision(), sub), value); err != nil {
			return fmt.Errorf("key %q: %w", v.Key, err)
		}
	}
	return nil
}

// putEnd makes the last record that of the present revision: etcdutl, and etcd
// before 3.6, take the revision from it. If the last change was a deletion, that
// is not there any more; another one stands in for it, of a key that never was.
func (e *export) putEnd(tx *bolt.Tx) error {
	if n := len(e.versions); n > 0 && e.versions[n-1].ModRevision() == e.state.Revision {
		return nil
	}
	value, err := proto.Marshal(&mvccpb.KeyValue{Key: []byte("limpet/export"), ModRevision: e.state.Revision})
	if err != nil {
		return err
	}
	return tx.Bucket([]byte(bucketKey)).Put(append(etcdRevision(e.state.Revision, 0), tombstone), value)
}

// seal cuts off what bbolt has allocated beyond its pages, and appends the
// SHA-256.
func seal(ctx context.Context, file string, size int64, trailer bool) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	if trailer {
		sum := sha256.New()
		if _, err := io.Copy(sum, contextReader{ctx, f}); err != nil {
			return err
		}
		if _, err := f.Write(sum.Sum(nil)); err != nil {
			return err
		}
	}
	return f.Close()
}
