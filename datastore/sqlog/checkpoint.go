package sqlog

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"time"
)

// checkpointer is the connection that copies the WAL into the database. It has
// one of its own so that commits go on meanwhile.
type checkpointer struct {
	*conn
	modes [3]*sql.Stmt
}

type checkpointMode int

const (
	passive  checkpointMode = iota // waits for nobody, and so may not finish
	restart                        // all of it; the next commit starts at the WAL's beginning
	truncate                       // the same, and the WAL becomes an empty file
)

// How long a checkpoint that wants all of the WAL waits for readers in other
// processes. A commit may wait for it.
const checkpointBusy = 200 * time.Millisecond

func openCheckpointer(ctx context.Context, o Options) (*checkpointer, error) {
	c, err := openWAL(ctx, o.Path, o.WALHardLimit, connOptions{cacheKiB: 50, busy: checkpointBusy})
	if err != nil {
		return nil, err
	}
	cp := &checkpointer{conn: c}
	err = c.prepare(ctx, map[**sql.Stmt]string{
		&cp.modes[passive]:  "PRAGMA wal_checkpoint(PASSIVE)",
		&cp.modes[restart]:  "PRAGMA wal_checkpoint(RESTART)",
		&cp.modes[truncate]: "PRAGMA wal_checkpoint(TRUNCATE)",
	})
	if err != nil {
		c.close()
		return nil, err
	}
	return cp, nil
}

// checkpoint runs one checkpoint; never two at a time. It reports whether the
// next commit can start at the beginning of the WAL. For any mode but passive
// the caller holds writeMu.
func (l *Log) checkpoint(ctx context.Context, mode checkpointMode) (done bool, err error) {
	l.ckptMu.Lock()
	defer l.ckptMu.Unlock()
	if l.ckpt == nil {
		return false, errClosed
	}
	before := l.wal.size()
	var busy, frames, copied int64
	err = l.ckpt.modes[mode].QueryRowContext(ctx).Scan(&busy, &frames, &copied)
	if err != nil {
		l.wal.postpone(mode)
		l.noteFailure(err)
		return false, err
	}
	l.stats.checkpoints.Add(1)
	return l.wal.checkpointed(before, frames, busy == 0 && frames == copied, mode), nil
}

// checkpointAll is for the modes that need the WAL to themselves. It keeps the
// Log's own readers away, as SQLite would wait for a moment without any by
// sleeping. While a Load or a Backup needs the WAL it does not try. The caller
// holds writeMu.
func (l *Log) checkpointAll(ctx context.Context, mode checkpointMode) (done bool, err error) {
	if l.longReads.Load() > 0 {
		l.wal.postpone(mode)
		return false, nil
	}
	l.readMu.Lock()
	defer l.readMu.Unlock()
	return l.checkpoint(context.WithoutCancel(ctx), mode)
}

// checkpointIfDue keeps the WAL within its limits. The caller holds writeMu,
// and what it committed is durable: a failure is reported, but not to it.
func (l *Log) checkpointIfDue(ctx context.Context) {
	switch l.wal.due() {
	case dueNow:
		if _, err := l.checkpointAll(ctx, restart); err != nil {
			l.opts.Logger.Warn("checkpoint of the datastore failed", "file", l.opts.Path, "error", err)
		}
	case dueSoon:
		l.long.Go(func() {
			defer l.wal.backgroundDone()
			if _, err := l.checkpoint(context.WithoutCancel(ctx), passive); err != nil {
				l.opts.Logger.Warn("checkpoint of the datastore failed", "file", l.opts.Path, "error", err)
			}
		})
	}
}

// Checkpoint copies the WAL into the database. With truncate it waits for
// commits and readers and leaves an empty WAL, or returns ErrBusy; without, it
// copies what it can.
func (l *Log) Checkpoint(ctx context.Context, truncateWAL bool) error {
	err := ctx.Err()
	switch {
	case err != nil:
	case truncateWAL:
		l.writeMu.Lock()
		defer l.writeMu.Unlock()
		var done bool
		if done, err = l.checkpointAll(ctx, truncate); err == nil && !done {
			err = fmt.Errorf("%w: a reader (a backup, say) still needs the WAL", ErrBusy)
		}
	default:
		_, err = l.checkpoint(context.WithoutCancel(ctx), passive)
	}
	return wrap("checkpoint", l.opts.Path, err)
}

// walState decides when to checkpoint. It knows the size of the WAL from the
// pages that were written and from what checkpoints report; it may believe the
// WAL to be shorter than it is (a reader kept it from starting over), but the
// next checkpoint corrects that, so the error is less than the soft limit.
type walState struct {
	mu         sync.Mutex
	frame      int64 // bytes in the WAL for each page
	soft, hard int64
	used       int64 // bytes
	softAt     int64 // the size for the next attempt: a limit, or more if the last one achieved nothing
	hardAt     int64
	background bool
}

const frameHeader = 24 // bytes before each page in the WAL

type due int

const (
	dueNot due = iota
	dueSoon
	dueNow
)

func newWALState(pageSize int64, o Options) walState {
	return walState{frame: pageSize + frameHeader, soft: o.WALSoftLimit, hard: o.WALHardLimit, softAt: o.WALSoftLimit, hardAt: o.WALHardLimit}
}

// page is the size of a page of the database.
func (s *walState) page() int64 { return s.frame - frameHeader }

func (s *walState) grew(pages int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used += int64(pages) * s.frame
}

func (s *walState) size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

// due says what to do now. Who is told dueSoon must call backgroundDone.
func (s *walState) due() due {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.used >= s.hardAt:
		return dueNow
	case s.used >= s.softAt && !s.background:
		s.background = true
		return dueSoon
	}
	return dueNot
}

func (s *walState) backgroundDone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.background = false
}

// checkpointed takes note of a checkpoint that found frames in the WAL, and
// copied all of them or not. before is the size when it began. It reports
// whether the WAL starts over.
//
// After a passive one that is up to readers: none may use the WAL at the next
// commit. A long WAL therefore stays on record until a checkpoint that waits.
func (s *walState) checkpointed(before, frames int64, all bool, mode checkpointMode) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	added := s.used - before // by commits meanwhile; frames may include some
	found := max(frames, 0) * s.frame
	if all && added == 0 && (mode != passive || found+s.soft < s.hard) {
		s.used, s.softAt, s.hardAt = 0, s.soft, s.hard
		return true
	}
	s.used = min(max(s.used, found), found+added)
	if all && added == 0 {
		return false // due at the next commit
	}
	s.postponeLocked(mode)
	return false
}

// postpone keeps a checkpoint that cannot finish from being tried at each
// commit.
func (s *walState) postpone(mode checkpointMode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.postponeLocked(mode)
}

func (s *walState) postponeLocked(mode checkpointMode) {
	s.softAt = s.used + s.soft
	if mode != passive && s.used >= s.hardAt {
		s.hardAt = s.used + s.soft
	}
}
