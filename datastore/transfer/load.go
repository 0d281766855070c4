package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"maps"
	"math"
	"time"

	"github.com/limpetio/limpet/datastore/sqlog"
)

const (
	// loadRecords and loadBytes bound a commit of an import, and with it the
	// memory that it takes.
	loadRecords = 1000
	loadBytes   = 4 << 20
	// sweepSlice is how many records one step of the last sweep looks at:
	// nobody waits for it.
	sweepSlice = 10_000
)

// loader writes a new datastore.
type loader struct {
	log    *sqlog.Log
	opts   Options
	dir    string // for what a source wants to put aside
	report Report

	batch  sqlog.Batch
	size   int
	total  int64
	sum    hash.Hash
	leases map[int64]int64
}

// importTo makes the datastore dst of what fill finds. fill puts records in
// ascending order and sets report.SourceRevision.
func importTo(ctx context.Context, from, dst string, o Options, fill func(context.Context, *loader) error) (Report, error) {
	o = o.withDefaults()
	report, err := importWith(ctx, dst, o, fill)
	if err != nil && ctx.Err() != nil && !errors.Is(err, ctx.Err()) { // SQLite says "interrupted"
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	if err != nil {
		return Report{}, fmt.Errorf("import %s to %s: %w", from, dst, explain(err, dst))
	}
	report.log(o.Logger, "imported a datastore", from, dst)
	return report, nil
}

func importWith(ctx context.Context, dst string, o Options, fill func(context.Context, *loader) error) (Report, error) {
	start := time.Now()
	p, err := beside(dst, o.Replace, true)
	if err != nil {
		return Report{}, err
	}
	defer p.discard()
	log, _, err := sqlog.Open(ctx, sqlog.Options{Path: p.file(), Logger: o.Logger})
	if err != nil {
		return Report{}, err
	}
	l := &loader{log: log, opts: o, dir: p.tmp, sum: sha256.New(), leases: map[int64]int64{}}
	err = fill(ctx, l)
	if err == nil {
		err = l.finish(ctx)
	}
	if closed := log.Close(ctx); err == nil {
		err = closed
	}
	if err == nil {
		err = l.verify(ctx, p.file())
	}
	if err == nil {
		l.report.Kept, err = p.commit()
	}
	l.report.Duration = time.Since(start)
	return l.report, err
}

// expect says how many keys there will be.
func (l *loader) expect(total int64) {
	l.total = total
	l.opts.Progress(0, total)
}

// lease adds a lease.
func (l *loader) lease(id, ttl int64) {
	if _, ok := l.leases[id]; !ok {
		l.report.Leases++
	}
	l.leases[id] = ttl
	l.batch.Leases = append(l.batch.Leases, sqlog.LeaseChange{ID: id, TTL: ttl})
}

// put adds a key. The value must stay as it is until fill returns.
func (l *loader) put(ctx context.Context, r sqlog.Record) error {
	addTo(l.sum, &r)
	l.batch.Records = append(l.batch.Records, r)
	l.report.Keys++
	l.report.Bytes += int64(len(r.Key) + len(r.Value))
	l.size += len(r.Key) + len(r.Value)
	if len(l.batch.Records) < loadRecords && l.size < loadBytes {
		return nil
	}
	return l.flush(ctx)
}

func (l *loader) flush(ctx context.Context) error {
	if err := l.log.Commit(ctx, l.batch); err != nil {
		return err
	}
	l.batch, l.size = sqlog.Batch{}, 0
	l.opts.Progress(l.report.Keys, max(l.total, l.report.Keys))
	return nil
}

// finish writes what is left, and decides with which revision the destination
// goes on: above the source's, as nobody can say whether that has all its keys.
func (l *loader) finish(ctx context.Context) error {
	if l.report.SourceRevision > sqlog.MaxRevision/2-l.opts.Margin {
		return fmt.Errorf("revision %d is too large: the datastore counts to %d", l.report.SourceRevision, int64(sqlog.MaxRevision/2))
	}
	l.report.Revision = l.report.SourceRevision + max(l.opts.Margin, 1)
	return l.flush(ctx)
}

// verify raises the revision, declares everything before compacted, and reads
// back what was written. To sqlog the database is a restored one, which it looks
// at page by page, and raises by a margin: the last of ours.
func (l *loader) verify(ctx context.Context, path string) error {
	if err := sqlog.MarkRestored(ctx, path, l.report.Revision-1); err != nil {
		return err
	}
	log, state, err := sqlog.Open(ctx, sqlog.Options{Path: path, Margin: 1})
	if err != nil {
		return err
	}
	err = l.compare(ctx, log, state)
	for more := err == nil; more; { // so that the first start has nothing to do
		more, err = log.Sweep(ctx, sweepSlice)
	}
	return errors.Join(err, log.Close(ctx))
}

func (l *loader) compare(ctx context.Context, log *sqlog.Log, state sqlog.State) error {
	sum, keys := sha256.New(), int64(0)
	err := log.Load(ctx, math.MaxInt, func(r sqlog.Record) error {
		addTo(sum, &r)
		keys++
		return nil
	})
	if err != nil {
		return err
	}
	leases, err := log.Leases(ctx)
	if err != nil {
		return err
	}
	switch {
	case keys != l.report.Keys:
		return fmt.Errorf("%d keys were written, but %d are there", l.report.Keys, keys)
	case !maps.Equal(leases, l.leases):
		return fmt.Errorf("%d leases were written, but others, or %d, are there", len(l.leases), len(leases))
	case string(sum.Sum(nil)) != string(l.sum.Sum(nil)):
		return errors.New("what was read back is not what was written: check the disk and the memory")
	case state.Revision != l.report.Revision || state.Compacted != l.report.Revision:
		return fmt.Errorf("the revision should be %d, and is %+v", l.report.Revision, state)
	}
	return nil
}

// addTo adds a record to a checksum.
func addTo(sum hash.Hash, r *sqlog.Record) {
	var head []byte
	for _, n := range []int64{r.ID, r.CreateRevision, r.Version, r.Lease, int64(len(r.Key)), int64(len(r.Value))} {
		head = binary.BigEndian.AppendUint64(head, uint64(n))
	}
	sum.Write(head)
	sum.Write([]byte(r.Key))
	sum.Write(r.Value)
}
