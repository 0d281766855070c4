package transfer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// openSQLite opens a database with one connection. The query are parameters of
// SQLite's URIs.
func openSQLite(ctx context.Context, path string, query url.Values, pragmas ...string) (*sql.Conn, func(), error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, nil, err
	}
	query.Set("_error_rc", "1") // without it a failed open carries the message of something else
	dsn := url.URL{Scheme: "file", Path: abs, RawQuery: query.Encode()}
	connector, err := sqlite.NewConnector(dsn.String())
	if err != nil {
		return nil, nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	c, err := db.Conn(ctx)
	if err != nil {
		_ = db.Close()
		return nil, nil, err
	}
	done := func() {
		_ = c.Close()
		_ = db.Close()
	}
	for _, p := range append([]string{"trusted_schema=off", "busy_timeout=10000"}, pragmas...) {
		if _, err := c.ExecContext(ctx, "PRAGMA "+p); err != nil {
			done()
			return nil, nil, fmt.Errorf("pragma %s: %w", p, err)
		}
	}
	return c, done, nil
}

// quickCheck lets SQLite look at every page of a database that nobody uses.
func quickCheck(ctx context.Context, path string) error {
	c, done, err := openSQLite(ctx, path, url.Values{"mode": {"ro"}, "immutable": {"1"}})
	if err != nil {
		return err
	}
	defer done()
	return sqlog.QuickCheck(ctx, c)
}

// sourceError finds out what an error says about a source.
func sourceError(err error) error {
	var serr *sqlite.Error
	if !errors.As(err, &serr) || ofDestination(err) {
		return err
	}
	switch serr.Code() & 0xff {
	case sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: it is not a SQLite database: %w", ErrForeign, err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR:
		return fmt.Errorf("%w: %w; use a backup", ErrDamaged, err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("%w: %w; stop k3s and try again", ErrInUse, err)
	case sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY:
		return fmt.Errorf("%w; SQLite needs to write beside a database that was not closed:"+
			" copy it, with its -wal file, to where that is possible", err)
	}
	return err
}

// ofDestination reports whether an error comes from package sqlog.
func ofDestination(err error) bool {
	for _, kind := range []error{sqlog.ErrNoSpace, sqlog.ErrCorrupt, sqlog.ErrIO, sqlog.ErrBusy, sqlog.ErrReadOnly} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

func sqliteFull(err error) bool {
	var serr *sqlite.Error
	return errors.As(err, &serr) && serr.Code()&0xff == sqlite3.SQLITE_FULL
}
