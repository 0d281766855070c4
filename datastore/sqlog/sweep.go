package sqlog

import (
	"context"
	"slices"
)

// Sweep is a slice of physical compaction: it looks at the next limit records
// before the compact revision, and deletes those that they supersede, and
// themselves if they are tombstones. It reports whether there is more to do.
// Call it between commits, with a limit (some hundreds) that commits can wait
// for.
//
// Nothing that a reader at or above the compact revision could ask for is
// deleted: what a record below it supersedes is invisible from that record's
// revision on. The compact revision itself stays whole, with what it superseded:
// a watcher may begin there. A prev that names a record of another key deletes
// nothing.
func (l *Log) Sweep(ctx context.Context, limit int) (more bool, err error) {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, wrap("sweep", l.opts.Path, err)
	}
	before := l.swept.Load()
	looked, deleted := 0, int64(0)
	upTo := ID(l.compacted, 0) - 1
	if before < upTo {
		err = l.transaction(ctx, func(ctx context.Context, w *writer) error {
			s, err := w.slice(ctx, before, upTo, limit)
			if err != nil || s.looked == 0 {
				return err
			}
			looked = s.looked
			l.swept.Store(s.last) // before the commit: see After
			if deleted, err = w.removeAll(ctx, s.garbage); err != nil {
				return err
			}
			return w.set(ctx, "swept", s.last)
		})
	}
	if err != nil {
		l.swept.Store(before)
		return false, wrap("sweep", l.opts.Path, err)
	}
	l.stats.rows.Add(-deleted)
	backlog, err := l.giveBack(ctx)
	if err != nil {
		return false, wrap("sweep", l.opts.Path, err)
	}
	l.checkpointIfDue(ctx)
	return looked >= max(limit, 1) || backlog, nil
}

type garbage struct {
	id  int64
	key []byte
}

type slice struct {
	looked  int
	last    int64 // id of the last record that was looked at
	garbage []garbage
}

// slice finds what the records with after < id <= upTo make superfluous.
func (w *writer) slice(ctx context.Context, after, upTo int64, limit int) (slice, error) {
	var s slice
	rows, err := w.superseded.QueryContext(ctx, after, upTo, max(limit, 1))
	if err != nil {
		return s, err
	}
	defer rows.Close()
	for rows.Next() {
		var id, prev, version int64
		var key []byte
		if err := rows.Scan(&id, &prev, &key, &version); err != nil {
			return s, err
		}
		s.looked++
		s.last = id
		if prev != 0 && prev < id {
			s.garbage = append(s.garbage, garbage{prev, key})
		}
		if version == 0 {
			s.garbage = append(s.garbage, garbage{id, key})
		}
	}
	return s, rows.Err()
}

func (w *writer) removeAll(ctx context.Context, gs []garbage) (deleted int64, err error) {
	// In the order of their places in the file: neighbours share a page.
	slices.SortFunc(gs, func(a, b garbage) int { return int(min(max(a.id-b.id, -1), 1)) })
	for _, g := range gs {
		res, err := w.remove.ExecContext(ctx, g.id, g.key)
		if err != nil {
			return deleted, err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return deleted, err
		}
		deleted += n
	}
	return deleted, nil
}

// Giving pages back to the file system moves pages from the end of the file
// into its holes: each costs about three page writes, and a hole is as good for
// the next append. So a reserve stays, and only what is beyond goes.
const (
	vacuumSlice   = "PRAGMA incremental_vacuum(64)"
	reserveBytes  = 1 << 20
	reserveShare  = 4 // a fourth of the file
	defragAtATime = "PRAGMA incremental_vacuum(256)"
)

// giveBack shortens the file by a few pages if very many are free. It reports
// whether there are more. The caller holds writeMu.
func (l *Log) giveBack(ctx context.Context) (more bool, err error) {
	ctx = context.WithoutCancel(ctx)
	w, err := l.ready(ctx)
	if err != nil {
		return false, err
	}
	surplus := func() (bool, error) {
		free, err := w.int(ctx, "PRAGMA freelist_count")
		if err != nil || free <= reserveBytes/l.wal.page() {
			return false, err
		}
		total, err := w.int(ctx, "PRAGMA page_count")
		return free > total/reserveShare, err
	}
	if yes, err := surplus(); err != nil || !yes {
		return false, err
	}
	if _, err := w.vacuum.ExecContext(ctx); err != nil {
		l.undo(ctx, w, err)
		return false, err
	}
	l.countPages(w)
	return surplus()
}

// Defragment gives all free pages back to the file system, in slices between
// which commits go on.
func (l *Log) Defragment(ctx context.Context) error {
	for {
		more, err := l.defragment(ctx)
		if err != nil {
			return wrap("defragment", l.opts.Path, err)
		}
		if !more {
			break
		}
	}
	return l.Checkpoint(ctx, true) // the file itself gets shorter only now
}

func (l *Log) defragment(ctx context.Context) (more bool, err error) {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	if err := ctx.Err(); err != nil {
		return false, err
	}
	w, err := l.ready(ctx)
	if err != nil {
		return false, err
	}
	inner := context.WithoutCancel(ctx)
	if err := w.exec(inner, defragAtATime); err != nil {
		l.undo(inner, w, err)
		return false, err
	}
	l.countPages(w)
	l.checkpointIfDue(ctx)
	free, err := w.int(inner, "PRAGMA freelist_count")
	return free > 0, err
}
