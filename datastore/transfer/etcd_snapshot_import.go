package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
	"google.golang.org/protobuf/proto"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// ImportEtcdSnapshot makes the Limpet datastore dst of a file that etcdctl
// snapshot save wrote. Keys keep their revisions and versions, leases their IDs
// and TTLs.
func ImportEtcdSnapshot(ctx context.Context, src, dst string, o Options) (Report, error) {
	return importTo(ctx, src, dst, o, func(ctx context.Context, l *loader) error {
		if err := checkTrailer(ctx, src, o.NoTrailer); err != nil {
			return err
		}
		return readSnapshot(ctx, src, func(tx *bolt.Tx) error {
			s := &snapshotSource{tx: tx, loader: l, newest: map[string]int64{}}
			return s.copy(ctx)
		})
	})
}

// checkTrailer compares the file with the SHA-256 at its end. A file that has
// one is that much longer than a number of pages.
func checkTrailer(ctx context.Context, path string, optional bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	switch has := info.Size()%512 == sha256.Size; {
	case !info.Mode().IsRegular() || info.Size() == 0:
		return fmt.Errorf("%w: it is no file, or an empty one", ErrForeign)
	case !has && optional:
		return nil
	case !has:
		return fmt.Errorf("%w: it has no SHA-256 at its end, as files of etcdctl snapshot save have: it is none, or cut off"+
			" (a copy of etcd's own database has none; that can be allowed)", ErrForeign)
	}
	sum := sha256.New()
	content := io.NewSectionReader(f, 0, info.Size()-sha256.Size)
	if _, err := io.Copy(sum, contextReader{ctx, content}); err != nil {
		return err
	}
	trailer := make([]byte, sha256.Size)
	if _, err := f.ReadAt(trailer, info.Size()-sha256.Size); err != nil {
		return err
	}
	if string(trailer) != string(sum.Sum(nil)) {
		return fmt.Errorf("%w: its content does not fit the SHA-256 at its end; use another snapshot", ErrDamaged)
	}
	return nil
}

// contextReader ends when a context does.
type contextReader struct {
	ctx context.Context
	io.Reader
}

func (r contextReader) Read(b []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}

// readSnapshot runs fn in a transaction of a bbolt database. bbolt panics where a
// database is damaged, and the kernel faults where a file is too short for what
// it says: without a SHA-256 both must be expected.
func readSnapshot(ctx context.Context, path string, fn func(*bolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("%w: %v; use another snapshot", ErrDamaged, fault)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: stop etcd, or use a snapshot of it", ErrInUse)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return fmt.Errorf("%w: it is not an etcd database: %w", ErrForeign, err)
	case err != nil:
		return err
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() < tx.Size() {
			return fmt.Errorf("%w: it has %d bytes and should have %d: it was cut off", ErrDamaged, info.Size(), tx.Size())
		}
		if tx.Bucket([]byte(bucketKey)) == nil || tx.Bucket([]byte(bucketMeta)) == nil {
			return fmt.Errorf("%w: it is a bbolt database, but not etcd's: buckets are missing", ErrForeign)
		}
		return fn(tx)
	})
}

// snapshotSource is a snapshot that is being read.
type snapshotSource struct {
	tx     *bolt.Tx
	loader *loader
	newest map[string]int64 // the newest record of each key that exists
}

func (s *snapshotSource) copy(ctx context.Context) error {
	report := &s.loader.report
	// A database that was restored, or compacted, is ahead of its last change.
	for _, name := range []string{metaScheduled, metaFinished} {
		if b := s.tx.Bucket([]byte(bucketMeta)).Get([]byte(name)); len(b) == revisionLen {
			report.SourceRevision = max(report.SourceRevision, int64(binary.BigEndian.Uint64(b)))
		}
	}
	err := s.each(ctx, func(id int64, deleted bool, kv *mvccpb.KeyValue) error {
		report.SourceRevision = max(report.SourceRevision, sqlog.Revision(id))
		switch {
		case len(kv.Key) == 0: // etcdutl leaves one when it raises the revision
		case deleted:
			delete(s.newest, string(kv.Key))
		default:
			s.newest[string(kv.Key)] = id
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.loader.expect(int64(len(s.newest)))
	if err := s.copyLeases(); err != nil {
		return err
	}
	return s.each(ctx, func(id int64, deleted bool, kv *mvccpb.KeyValue) error {
		if newest, ok := s.newest[string(kv.Key)]; !ok || newest != id {
			return nil
		}
		lease := kv.Lease
		if _, ok := s.loader.leases[lease]; !ok {
			lease = 0 // it was over, as etcd has it
		}
		return s.loader.put(ctx, sqlog.Record{
			ID: id, Key: string(kv.Key), CreateRevision: kv.CreateRevision, Version: kv.Version, Lease: lease, Value: kv.Value,
		})
	})
}

// each calls fn with all changes in their order.
func (s *snapshotSource) each(ctx context.Context, fn func(id int64, deleted bool, kv *mvccpb.KeyValue) error) error {
	last := int64(0)
	return s.tx.Bucket([]byte(bucketKey)).ForEach(func(k, v []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		main, sub, deleted, err := parseEtcdRevision(k)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if main > sqlog.MaxRevision || sub > sqlog.MaxSub {
			return fmt.Errorf("%w: change %d of revision %d does not fit into the datastore", ErrForeign, sub, main)
		}
		id := sqlog.ID(main, int(sub))
		if id <= last {
			return fmt.Errorf("%w: revision %d comes after %d", ErrDamaged, main, sqlog.Revision(last))
		}
		last = id
		var kv mvccpb.KeyValue
		if err := proto.Unmarshal(v, &kv); err != nil {
			return fmt.Errorf("%w: revision %d: %w", ErrDamaged, main, err)
		}
		if !deleted && len(kv.Key) > 0 && (kv.Version <= 0 || kv.ModRevision != main) {
			return fmt.Errorf("%w: revision %d holds version %d of revision %d", ErrDamaged, main, kv.Version, kv.ModRevision)
		}
		return fn(id, deleted, &kv)
	})
}

func (s *snapshotSource) copyLeases() error {
	bucket := s.tx.Bucket([]byte(bucketLease))
	if bucket == nil {
		return nil
	}
	return bucket.ForEach(func(k, v []byte) error {
		var lease leasepb.Lease
		if err := proto.Unmarshal(v, &lease); err != nil {
			return fmt.Errorf("%w: lease %x: %w", ErrDamaged, k, err)
		}
		s.loader.lease(lease.ID, max(lease.TTL, minTTL))
		return nil
	})
}
