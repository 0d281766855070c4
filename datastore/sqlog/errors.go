package sqlog

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// What callers tell apart. Every error of this package that has one of these
// causes is one of these by errors.Is, and keeps SQLite's own message.
var (
	ErrCorrupt   = errors.New("the database is damaged")
	ErrNoSpace   = errors.New("no space left for the database")
	ErrIO        = errors.New("the database's disk failed")
	ErrBusy      = errors.New("the database is busy")
	ErrReadOnly  = errors.New("the database cannot be written")
	ErrInUse     = errors.New("the database is in use by another process")
	ErrSchema    = errors.New("the database has a schema that this version does not know")
	ErrForeign   = errors.New("the database belongs to another program")
	ErrCompacted = errors.New("the revision is compacted")
)

// wrap names the operation and the database, and finds the sentinel.
func wrap(op, path string, err error) error {
	if err == nil {
		return nil
	}
	if kind := classify(err, filepath.Dir(path)); kind != nil && !errors.Is(err, kind) {
		return fmt.Errorf("%s %s: %w: %w", op, path, kind, err)
	}
	return fmt.Errorf("%s %s: %w", op, path, err)
}

// classify returns the sentinel for an error of SQLite or of the system, nil
// if none fits.
func classify(err error, dir string) error {
	if corrupt(err) {
		return ErrCorrupt
	}
	var serr *sqlite.Error
	if !errors.As(err, &serr) {
		return classifyErrno(err)
	}
	switch serr.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return ErrNoSpace
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL:
		return ErrBusy
	case sqlite3.SQLITE_READONLY:
		return ErrReadOnly
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
		if kind := classifyErrno(probe(dir)); kind != nil {
			return kind
		}
		return ErrIO
	}
	return nil
}

func classifyErrno(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return ErrNoSpace
	case errors.Is(err, syscall.EROFS):
		return ErrReadOnly
	case errors.Is(err, syscall.EIO):
		return ErrIO
	}
	return nil
}

// probe finds out why the directory cannot be written. SQLite reports a full
// quota, a file system that went read-only and a full disk (when it strikes a
// file other than the database) as the same I/O error, and the driver does not
// give access to the errno. So the write is tried again, with a file that is
// gone when probe returns.
func probe(dir string) error {
	f, err := os.CreateTemp(dir, ".sqlog-probe-*")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	if _, err := f.Write(make([]byte, 64<<10)); err != nil {
		return err
	}
	return f.Sync() // file systems with delayed allocation notice only now
}

// corrupt reports whether err says that the database is damaged.
func corrupt(err error) bool {
	var serr *sqlite.Error
	if !errors.As(err, &serr) {
		return errors.Is(err, ErrCorrupt)
	}
	code := serr.Code()
	return code&0xff == sqlite3.SQLITE_CORRUPT || code&0xff == sqlite3.SQLITE_NOTADB ||
		code == sqlite3.SQLITE_IOERR_CORRUPTFS || code == sqlite3.SQLITE_IOERR_DATA
}

// blameFile is for statements that are known to be right, before the file is
// known to be: what SQLite does not understand is then the file's fault.
func blameFile(err error) error {
	var serr *sqlite.Error
	if errors.As(err, &serr) && serr.Code()&0xff == sqlite3.SQLITE_ERROR {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// harmless reports whether the database is certainly as it was before the
// operation that failed with err. Otherwise it must not be marked as clean.
func harmless(err error) bool {
	var serr *sqlite.Error
	if !errors.As(err, &serr) {
		return !errors.Is(err, ErrCorrupt) // not from the database
	}
	switch serr.Code() & 0xff {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_INTERRUPT:
		return true
	}
	return false
}
