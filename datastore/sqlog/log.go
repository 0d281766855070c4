package sqlog

import (
	"context"
	"database/sql"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// Defaults of Options.
const (
	DefaultWALSoftLimit = 4 << 20
	DefaultWALHardLimit = 16 << 20
	DefaultMargin       = 1_000_000
	// DefaultPageSize is what BenchmarkPageSize favours. Bytes in the WAL, and
	// bytes that reach an ext4 file system, for each commit of one value:
	//
	//	page     450 B (Leases)   600 B          1 KiB          3 KiB
	//	512 B    2.8 k   7.2 k    2.8 k  7.4 k    3.2 k  8.1 k    5.5 k 12.8 k
	//	1 KiB    5.5 k  10.0 k    5.1 k 10.2 k    5.0 k 10.2 k    7.2 k 14.6 k
	//	2 KiB    5.1 k   9.5 k    4.9 k  9.6 k    9.8 k 16.1 k   12.5 k 21.1 k
	//	4 KiB    6.9 k  11.4 k    7.1 k 11.9 k    9.5 k 15.1 k   19.1 k 27.4 k
	//
	// A value that does not share a page with others makes the file grow by a
	// page, and that dirties four: the new one, its parent, the pointer map
	// and the header. With small pages, four are little, and what is larger
	// goes into overflow pages that are written once and are nearly full. The
	// price is more pages: with 512 B instead of 1 KiB, loading everything and
	// the check after an unclean stop take a half longer, and so does a commit
	// of 100 KiB.
	DefaultPageSize = 512
)

// Options say where the log is and how it behaves.
type Options struct {
	// Path of the database. Its directory must exist. Beside it are PATH-wal,
	// PATH-shm and PATH.lock.
	Path   string
	Logger *slog.Logger // nil discards
	// WALSoftLimit is the size of the WAL, in bytes, from which it is copied
	// into the database in the background. A longer WAL spares flash: a page
	// that many commits changed is copied once. A shorter one is read faster
	// after a crash.
	WALSoftLimit int64
	// WALHardLimit is the size at which a commit waits for that copy.
	WALHardLimit int64
	// PageSize of a new database.
	PageSize int
	// Margin is how many revisions are skipped after an unclean stop. It must
	// be more than could have been handed out and lost.
	Margin int64
}

func (o *Options) complete() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.WALSoftLimit <= 0 {
		o.WALSoftLimit = DefaultWALSoftLimit
	}
	if o.WALHardLimit <= 0 {
		o.WALHardLimit = max(DefaultWALHardLimit, o.WALSoftLimit)
	}
	if o.PageSize == 0 {
		o.PageSize = DefaultPageSize
	}
	if o.Margin <= 0 {
		o.Margin = DefaultMargin
	}
}

// State is what Open found, after it dealt with it.
type State struct {
	Clean     bool  // the last user called Close, or the database is new
	Bumped    bool  // revisions were skipped, and Compacted moved, because it was not clean
	Revision  int64 // the last revision that may have been handed out; 0 in a new database
	Compacted int64 // reads below this revision must be refused
	Schema    int
}

// Log is an open log. Its methods may be called from any goroutine. Commit,
// Sweep and Defragment wait for each other; reads wait only for reads.
type Log struct {
	opts Options
	lock *os.File

	life context.Context // done when Close begins: ends backups
	stop context.CancelFunc
	long sync.WaitGroup // backups and background checkpoints

	writeMu   sync.Mutex // for what follows
	w         *writer    // nil if it could not be opened again after a failure
	lastID    int64
	revision  int64 // of the last record, and at least the stored floor
	compacted int64
	broken    error // the database is damaged: do not write
	closed    bool

	failed atomic.Bool // the database may not be what it should be: do not mark it clean

	readMu    sync.Mutex   // for r
	r         *reader      // nil when closed
	longReads atomic.Int32 // that keep the WAL from starting over

	// swept is the id of the last row that Sweep looked at. Readers of history
	// need it, without waiting for a writer.
	swept atomic.Int64

	ckptMu sync.Mutex // for ckpt; taken after writeMu and readMu
	ckpt   *checkpointer
	wal    walState

	stats counters
}

// writer is the connection that writes, and its statements.
type writer struct {
	*conn
	begin, commit, insert, grant, revoke, setMeta *sql.Stmt
	superseded, remove, vacuum                    *sql.Stmt

	pages int // pagesWritten when last asked
}

func openWriter(ctx context.Context, o Options) (*writer, error) {
	c, err := openWAL(ctx, o.Path, o.WALHardLimit, connOptions{cacheKiB: 2000})
	if err != nil {
		return nil, err
	}
	w := &writer{conn: c}
	err = c.prepare(ctx, map[**sql.Stmt]string{
		&w.begin:      "BEGIN IMMEDIATE",
		&w.commit:     "COMMIT",
		&w.insert:     "INSERT INTO log(id, prev, key, create_rev, version, lease, value) VALUES(?, ?, ?, ?, ?, ?, ?)",
		&w.grant:      "INSERT OR REPLACE INTO lease(id, ttl) VALUES(?, ?)",
		&w.revoke:     "DELETE FROM lease WHERE id = ?",
		&w.setMeta:    "UPDATE meta SET value = ? WHERE name = ?",
		&w.superseded: "SELECT id, prev, key, version FROM log WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
		&w.remove:     "DELETE FROM log WHERE id = ? AND key = ?",
		&w.vacuum:     vacuumSlice,
	})
	if err != nil {
		c.close()
		return nil, err
	}
	return w, nil
}

// ready returns the write connection, opening it again if it was given up. The
// caller holds writeMu.
func (l *Log) ready(ctx context.Context) (*writer, error) {
	switch {
	case l.closed:
		return nil, errClosed
	case l.broken != nil:
		return nil, l.broken
	case l.w != nil:
		return l.w, nil
	}
	w, err := openWriter(ctx, l.opts)
	if err != nil {
		return nil, err
	}
	l.w = w
	return w, nil
}

// transaction runs fn in a transaction that is durable when it returns nil, and
// did not happen otherwise. The caller holds writeMu.
//
// ctx does not reach SQLite: an interrupt in the middle of a commit would leave
// open what became of it.
func (l *Log) transaction(ctx context.Context, fn func(context.Context, *writer) error) error {
	ctx = context.WithoutCancel(ctx)
	w, err := l.ready(ctx)
	if err != nil {
		return err
	}
	if _, err = w.begin.ExecContext(ctx); err == nil {
		if err = fn(ctx, w); err == nil {
			_, err = w.commit.ExecContext(ctx)
		}
	}
	if err != nil {
		l.undo(ctx, w, err)
		return err
	}
	l.countPages(w)
	return nil
}

// undo makes sure that nothing is left of a transaction that failed with cause.
func (l *Log) undo(ctx context.Context, w *writer, cause error) {
	if err := w.rollback(ctx); err != nil {
		l.opts.Logger.Warn("reopening the connection to the datastore, after a rollback failed", "error", err)
		w.close() // drops whatever was open
		l.w = nil
		l.failed.Store(true)
	} else {
		l.countPages(w) // pages that did not fit into the cache
	}
	l.noteFailure(cause)
	if corrupt(cause) && l.broken == nil {
		l.broken = cause
	}
}

// noteFailure remembers what an error says about the state of the database.
func (l *Log) noteFailure(err error) {
	if !harmless(err) {
		l.failed.Store(true)
	}
	if classify(err, filepath.Dir(l.opts.Path)) != nil {
		l.stats.failed(err)
	}
}

func (l *Log) countPages(w *writer) {
	n, err := w.pagesWritten()
	if err != nil {
		l.stats.failed(err)
		return
	}
	l.wal.grew(n - w.pages)
	w.pages = n
}
