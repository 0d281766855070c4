package sqlog

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

// Commit stores the batch, durably and as a whole, or not at all. An empty one
// costs nothing. ctx is looked at only before anything is written.
func (l *Log) Commit(ctx context.Context, b Batch) error {
	if b.empty() {
		return nil
	}
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	if err := l.commit(ctx, &b); err != nil {
		return wrap("commit to", l.opts.Path, err)
	}
	l.checkpointIfDue(ctx)
	return nil
}

func (l *Log) commit(ctx context.Context, b *Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := b.check(l.lastID, l.revision, l.compacted); err != nil {
		return err
	}
	if err := l.durably(ctx, func(ctx context.Context, w *writer) error { return w.store(ctx, b) }); err != nil {
		return err
	}
	if n := len(b.Records); n > 0 {
		l.lastID = b.Records[n-1].ID
		l.revision = max(l.revision, Revision(l.lastID))
		l.stats.rows.Add(int64(n))
	}
	if b.Compacted != 0 {
		l.compacted = b.Compacted
	}
	l.stats.commits.Add(1)
	return nil
}

// durably is transaction, tried again if that made space on a full disk.
func (l *Log) durably(ctx context.Context, fn func(context.Context, *writer) error) error {
	err := l.transaction(ctx, fn)
	if err != nil && l.freedSpace(ctx, err) {
		err = l.transaction(ctx, fn)
	}
	return err
}

// freedSpace gives the WAL's space back when the disk is full: the newest
// version of each of its pages usually has its place in the database already.
func (l *Log) freedSpace(ctx context.Context, cause error) bool {
	if !errors.Is(classify(cause, filepath.Dir(l.opts.Path)), ErrNoSpace) {
		return false
	}
	done, err := l.checkpointAll(ctx, truncate)
	return err == nil && done
}

func (w *writer) store(ctx context.Context, b *Batch) error {
	for i := range b.Records {
		if err := w.append(ctx, &b.Records[i]); err != nil {
			return fmt.Errorf("record %d: %w", b.Records[i].ID, err)
		}
	}
	for _, c := range b.Leases {
		var err error
		if c.Revoked {
			_, err = w.revoke.ExecContext(ctx, c.ID)
		} else {
			_, err = w.grant.ExecContext(ctx, c.ID, c.TTL)
		}
		if err != nil {
			return fmt.Errorf("lease %d: %w", c.ID, err)
		}
	}
	if b.Compacted == 0 {
		return nil
	}
	return w.set(ctx, "compacted", b.Compacted)
}

// append inserts one row. A statement for 8 or 16 rows measured 6.6 µs a row
// instead of 8.1 µs: nothing beside an fsync.
func (w *writer) append(ctx context.Context, r *Record) error {
	value := r.Value
	if value == nil && !r.Tombstone() {
		value = []byte{} // an empty value; nil would become NULL
	}
	_, err := w.insert.ExecContext(ctx, r.ID, r.Prev, []byte(r.Key), r.CreateRevision, r.Version, r.Lease, value)
	return err
}
