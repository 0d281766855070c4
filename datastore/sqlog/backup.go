package sqlog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// Backup writes a consistent copy of the database to path, which must not
// exist, while commits go on. The copy is complete and on disk when it returns
// nil, and has mode 0600. Opened as a log it counts as not closed properly, as
// it should: revisions after it were handed out.
//
// It uses VACUUM INTO. The alternative, SQLite's backup API, copies page by
// page and starts again whenever another connection commits, unless it copies
// everything in one step; then it holds a snapshot as long as VACUUM does.
// VACUUM costs more CPU (0.6 s for each 100 MB, see BenchmarkWhole) but reads
// every row, so damage is found now and not when the backup is needed, and it
// leaves out free pages. As long as it runs the WAL cannot start over and may exceed
// its limits.
func (l *Log) Backup(ctx context.Context, path string) error {
	op := "back up " + l.opts.Path + " to"
	l.writeMu.Lock() // so that Close waits for this one or comes first
	closed := l.closed
	if !closed {
		l.long.Add(1)
	}
	l.writeMu.Unlock()
	if closed {
		return wrap(op, path, errClosed)
	}
	defer l.long.Done()
	l.longReads.Add(1)
	defer l.longReads.Add(-1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.life, cancel)()
	err := l.backup(ctx, path)
	if err != nil && l.life.Err() != nil {
		err = errClosed
	}
	return wrap(op, path, err)
}

func (l *Log) backup(ctx context.Context, path string) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return os.ErrExist
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tmp-*") // made 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	if err := tmp.Close(); err != nil {
		return err
	}
	c, err := openWAL(ctx, l.opts.Path, l.opts.WALHardLimit, connOptions{cacheKiB: 1000})
	if err != nil {
		return err
	}
	err = c.exec(ctx, "VACUUM INTO ?", tmp.Name())
	c.close()
	if err != nil {
		return err
	}
	if err := finish(ctx, tmp.Name()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return syncFile(filepath.Dir(path))
}

// finish makes the copy a WAL database, as Open wants it: if Open had to
// convert it and were cut off, it would leave a rollback journal behind, which
// its read-only look at a database cannot deal with. VACUUM INTO does not sync.
func finish(ctx context.Context, path string) error {
	c, err := openConn(ctx, path, connOptions{cacheKiB: 50, pragmas: []string{"journal_mode=wal"}})
	if err != nil {
		return err
	}
	c.close()
	return syncFile(path)
}
