package sqlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/limpetio/limpet/internal/filelock"
)

// Open opens the log at o.Path, or creates it. It fails, and changes nothing,
// if what is there cannot be used: see the errors of this package.
//
// After an unclean stop it checks the database first, which can take a while
// (see the package comment), and moves State.Revision ahead. That is durable
// when Open returns.
func Open(ctx context.Context, o Options) (*Log, State, error) {
	o.complete()
	l, st, err := open(ctx, o)
	if err != nil {
		return nil, State{}, wrap("open", o.Path, err)
	}
	if st.Bumped {
		o.Logger.Warn("the datastore was not closed properly: it is intact, and revisions were skipped",
			"file", o.Path, "revision", st.Revision)
	}
	return l, st, nil
}

func open(ctx context.Context, o Options) (_ *Log, _ State, err error) {
	f, err := lock(o.Path)
	if err != nil {
		return nil, State{}, err
	}
	defer func() {
		if err != nil {
			filelock.Release(f)
		}
	}()
	if err := settle(o.Path, o.Logger); err != nil {
		return nil, State{}, err
	}
	if err := ensure(ctx, o); err != nil {
		return nil, State{}, err
	}
	found, st, err := inspect(ctx, o)
	if err != nil {
		return nil, State{}, err
	}
	l := &Log{opts: o, lock: f, lastID: found.lastID, revision: st.Revision, compacted: st.Compacted}
	l.life, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	l.swept.Store(found.swept)
	l.wal = newWALState(found.pageSize, o)
	if err := l.start(ctx, st); err != nil {
		l.closeConns()
		return nil, State{}, err
	}
	return l, st, nil
}

// ensure makes a database if there is none, and refuses what is obviously none.
func ensure(ctx context.Context, o Options) error {
	info, err := os.Stat(o.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if wal, err := os.Stat(o.Path + "-wal"); err == nil && wal.Size() > 0 {
			return fmt.Errorf("%w: the file is missing although %s-wal is there", ErrCorrupt, o.Path)
		}
		return create(ctx, o)
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", o.Path)
	case info.Size() < 512: // SQLite's smallest page; it would take some of these for new databases
		return fmt.Errorf("%w: the file is empty (%d bytes); restore a backup, or remove it to start with an empty datastore",
			ErrCorrupt, info.Size())
	}
	const writable = 2 // W_OK; SQLite would silently open it for reading only
	if err := syscall.Access(o.Path, writable); err != nil {
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	return nil
}

// start opens the connections and marks the database as being in use.
func (l *Log) start(ctx context.Context, st State) (err error) {
	for _, suffix := range []string{"", "-wal", "-shm"} { // SQLite gives new ones the mode of the database
		if err := os.Chmod(l.opts.Path+suffix, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if l.w, err = openWriter(ctx, l.opts); err != nil {
		return err
	}
	err = l.transaction(ctx, func(ctx context.Context, w *writer) error {
		if st.Bumped {
			if err := w.set(ctx, "revision", st.Revision); err != nil {
				return err
			}
			if err := w.set(ctx, "compacted", st.Compacted); err != nil {
				return err
			}
		}
		return w.set(ctx, "clean", 0)
	})
	if err != nil {
		return fmt.Errorf("mark as in use: %w", err)
	}
	if l.r, err = openReader(ctx, l.opts); err != nil {
		return err
	}
	l.ckpt, err = openCheckpointer(ctx, l.opts)
	return err
}

func (w *writer) set(ctx context.Context, name string, value int64) error {
	_, err := w.setMeta.ExecContext(ctx, value, name)
	return err
}

// Close marks the log as clean, copies the WAL into the database and removes
// it. A log that failed is not marked: its next start is checked and its
// revision moved. Close ends a running backup. It may be called twice.
func (l *Log) Close(ctx context.Context) error {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	if l.closed {
		return nil
	}
	l.stop()
	l.long.Wait() // none of them needs writeMu, and none starts without it
	var err error
	if l.failed.Load() {
		err = errors.New("not marked as clean after an earlier failure")
		if last := l.stats.last(); last != nil {
			err = fmt.Errorf("%w: %w", err, last)
		}
	} else {
		err = l.durably(ctx, func(ctx context.Context, w *writer) error { return w.set(ctx, "clean", 1) })
	}
	l.readMu.Lock()
	defer l.readMu.Unlock()
	if err == nil {
		_, err = l.checkpoint(context.WithoutCancel(ctx), truncate) // checkpointAll, with readMu held
	}
	l.closed = true
	l.closeConns()
	return wrap("close", l.opts.Path, err)
}

// closeConns releases everything. The connections go before the lock does.
func (l *Log) closeConns() {
	l.stop()
	if l.w != nil {
		l.w.close()
		l.w = nil
	}
	if l.r != nil {
		l.r.close()
		l.r = nil
	}
	l.ckptMu.Lock()
	if l.ckpt != nil {
		l.ckpt.close()
		l.ckpt = nil
	}
	l.ckptMu.Unlock()
	filelock.Release(l.lock)
}
