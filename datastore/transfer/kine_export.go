package transfer

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"

	"github.com/limpetio/limpet/datastore/engine"
)

// ExportKine writes the present state as a database for kine's SQLite driver: as
// the server/db/state.db of k3s. The source may be in use: it is exported as of
// one revision, and commits go on.
//
// In kine a revision is one row. Keys that were changed together, in one
// transaction, cannot keep their common revision: one does, and the others get
// revisions after the last one, as if they had been changed once more.
// (Kubernetes changes one key at a time.)
func ExportKine(ctx context.Context, source Source, path string, o Options) (Report, error) {
	return exportTo(ctx, "kine database", path, o, func(ctx context.Context, file string) (Report, error) {
		w := &kineWriter{export: newExport(source, o)}
		if err := w.write(ctx, file); err != nil {
			return w.report, err
		}
		return w.report, quickCheck(ctx, file)
	})
}

type kineWriter struct {
	*export
	conn   *sql.Conn
	insert *sql.Stmt
	first  bool  // there is a row 1
	last   int64 // the newest row
	next   int64 // for rows that cannot have their revision
	moved  []*engine.Version
}

func (w *kineWriter) write(ctx context.Context, file string) error {
	// Without a journal: what is not complete is thrown away.
	conn, done, err := openSQLite(ctx, file, url.Values{}, "journal_mode=off", "synchronous=off", "cache_size=-8000")
	if err != nil {
		return err
	}
	defer done()
	w.conn = conn
	if _, err := conn.ExecContext(ctx, kineTable); err != nil {
		return err
	}
	w.insert, err = conn.PrepareContext(ctx, "INSERT INTO kine(id, name, created, deleted, create_revision, prev_revision, lease, value)"+
		" VALUES(?, ?, ?, ?, ?, ?, ?, ?)")
	if err != nil {
		return err
	}
	defer w.insert.Close()
	if err := w.putAll(ctx); err != nil {
		return err
	}
	for _, index := range kineIndices() { // once all rows are there: each is written once
		if _, err := conn.ExecContext(ctx, index); err != nil {
			return err
		}
	}
	return w.count(ctx)
}

func (w *kineWriter) putAll(ctx context.Context) error {
	w.next = w.state.Revision + 1
	w.prepare()
	if err := w.batches(ctx, w.putBatch(ctx)); err != nil {
		return err
	}
	if len(w.moved) > 0 {
		w.report.Moved = int64(len(w.moved))
		w.versions, w.moved = w.moved, nil
		if err := w.batches(ctx, w.putBatch(ctx)); err != nil {
			return err
		}
	}
	return w.transaction(ctx, func() error { return w.putInternal(ctx) })
}

// prepare sets apart the keys that must have another revision, and leaves out
// the apiserver's compact_rev_key if it is there under kine's name too: then the
// store was written through kine's own server, and nobody uses the other.
func (w *kineWriter) prepare() {
	var keep []*engine.Version
	last := int64(0)
	twice := w.state.Get(kineCompactAPI) != nil
	for _, v := range w.versions {
		switch {
		case v.Key == compactKey && twice:
			w.report.Dropped++
		case v.ModRevision() == last:
			w.moved = append(w.moved, v)
		default:
			last = v.ModRevision()
			keep = append(keep, v)
		}
	}
	w.versions = keep
}

func (w *kineWriter) putBatch(ctx context.Context) func([]*engine.Version, [][]byte) error {
	return func(versions []*engine.Version, values [][]byte) error {
		return w.transaction(ctx, func() error {
			for i, v := range versions {
				if err := w.put(ctx, v, values[i]); err != nil {
					return fmt.Errorf("key %q: %w", v.Key, err)
				}
			}
			return nil
		})
	}
}

func (w *kineWriter) transaction(ctx context.Context, fn func() error) error {
	if _, err := w.conn.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	_, err := w.conn.ExecContext(ctx, "COMMIT")
	return err
}

func (w *kineWriter) put(ctx context.Context, v *engine.Version, value []byte) error {
	id, created := v.ModRevision(), 0
	if id <= w.last {
		id = w.next
		w.next++
	} else if v.CreateRevision == id {
		created = 1
	}
	w.first, w.last = w.first || id == 1, id
	name, ttl := v.Key, int64(0)
	if name == compactKey {
		name, value = kineCompactAPI, joinVersion(v.Version, value)
	}
	if v.Lease != 0 {
		if lease, ok := w.state.Lease(v.Lease); ok {
			ttl = lease.TTL
		}
	}
	if value == nil {
		value = []byte{} // nil would be NULL
	}
	// prev_revision is the row that compaction deletes with this one; the one
	// that was there is gone, and no other may be named.
	_, err := w.insert.ExecContext(ctx, id, name, created, 0, v.CreateRevision, 0, ttl, value)
	return err
}

// putInternal adds kine's own rows: the compact revision, and one that makes the
// present revision the newest row if a deletion was the last change. kine closes
// gaps with the same.
func (w *kineWriter) putInternal(ctx context.Context) error {
	id := int64(1) // where kine has it, unless that is taken
	if w.first {
		id = max(w.last+1, w.state.Revision)
	}
	w.last = max(w.last, id)
	if w.last < w.state.Revision {
		w.last = w.state.Revision
		if _, err := w.insert.ExecContext(ctx, w.last, fmt.Sprintf("gap-%d", w.last), 0, 1, 0, 0, 0, nil); err != nil {
			return err
		}
	}
	w.report.Revision = w.last
	_, err := w.insert.ExecContext(ctx, id, kineCompact, 1, 0, 0, w.last, 0, []byte{})
	return err
}

// count makes sure that kine finds what was written.
func (w *kineWriter) count(ctx context.Context) error {
	var keys, revision, sequence int64
	err := w.conn.QueryRowContext(ctx, "SELECT count(*), (SELECT max(id) FROM kine), (SELECT seq FROM sqlite_sequence WHERE name = 'kine')"+
		" FROM kine WHERE deleted = 0 AND name != ?", kineCompact).Scan(&keys, &revision, &sequence)
	if err != nil {
		return err
	}
	if keys != w.report.Keys || revision != w.report.Revision || sequence != revision {
		return fmt.Errorf("%d keys up to revision %d were written, but %d up to %d (sequence %d) are there",
			w.report.Keys, w.report.Revision, keys, revision, sequence)
	}
	return nil
}
