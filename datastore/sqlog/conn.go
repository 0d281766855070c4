package sqlog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"modernc.org/sqlite"
)

// conn is one physical connection to the database with the statements prepared
// on it. It is for one goroutine at a time. database/sql's pool is not used:
// which connection does what matters here.
type conn struct {
	*sql.Conn
	db    *sql.DB
	stmts []*sql.Stmt // database/sql does not close those of a Conn
}

// How long connections wait for a lock. Within the process nothing has to wait
// for long; this is for people with the sqlite3 shell.
const busyTimeout = 5 * time.Second

type connOptions struct {
	readOnly bool          // for files that must not change
	pageSize int           // of a new database
	cacheKiB int           // upper bound of the page cache
	busy     time.Duration // busyTimeout if 0
	pragmas  []string      // further ones
}

func openConn(ctx context.Context, path string, o connOptions) (*conn, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// _error_rc: without it a failed open carries the message of something else.
	query := url.Values{"_error_rc": {"1"}}
	if o.readOnly {
		query.Set("mode", "ro")
	}
	dsn := url.URL{Scheme: "file", Path: abs, RawQuery: query.Encode()}
	connector, err := sqlite.NewConnector(dsn.String())
	if err != nil {
		return nil, err
	}
	c := &conn{db: sql.OpenDB(connector)}
	c.db.SetMaxOpenConns(1)
	if c.Conn, err = c.db.Conn(ctx); err != nil {
		_ = c.db.Close()
		return nil, err
	}
	if o.busy == 0 {
		o.busy = busyTimeout
	}
	pragmas := []string{
		fmt.Sprintf("busy_timeout=%d", o.busy.Milliseconds()),
		fmt.Sprintf("cache_size=-%d", o.cacheKiB),
		"temp_store=memory",
		"trusted_schema=off",
	}
	if o.pageSize != 0 { // both only before the first table
		pragmas = append(pragmas, fmt.Sprintf("page_size=%d", o.pageSize), "auto_vacuum=incremental")
	}
	for _, p := range append(pragmas, o.pragmas...) {
		if err := c.exec(ctx, "PRAGMA "+p); err != nil {
			c.close()
			return nil, fmt.Errorf("pragma %s: %w", p, err)
		}
	}
	return c, nil
}

// openWAL opens a connection for the running database: durable commits, and no
// checkpoint that this package did not ask for. A WAL that grew over limit
// (during a backup, say) is cut back when it starts over.
func openWAL(ctx context.Context, path string, limit int64, o connOptions) (*conn, error) {
	o.pragmas = append(o.pragmas, "synchronous=full", "wal_autocheckpoint=0", fmt.Sprintf("journal_size_limit=%d", limit))
	c, err := openConn(ctx, path, o)
	if err != nil {
		return nil, err
	}
	if mode, err := c.text(ctx, "PRAGMA journal_mode=wal"); err != nil || mode != "wal" {
		c.close()
		if err == nil {
			err = fmt.Errorf("the journal mode is %s and cannot be changed to wal", mode)
		}
		return nil, err
	}
	return c, nil
}

// close closes the statements first: SQLite keeps a connection, its locks and
// its files until the last of them is gone.
func (c *conn) close() {
	for _, s := range c.stmts {
		_ = s.Close()
	}
	_ = c.Close()
	_ = c.db.Close()
}

func (c *conn) exec(ctx context.Context, query string, args ...any) error {
	_, err := c.ExecContext(ctx, query, args...)
	return err
}

func (c *conn) int(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = c.QueryRowContext(ctx, query, args...).Scan(&n)
	return n, err
}

func (c *conn) text(ctx context.Context, query string) (s string, err error) {
	err = c.QueryRowContext(ctx, query).Scan(&s)
	return s, err
}

// prepare fills the statements that the map names by their SQL.
func (c *conn) prepare(ctx context.Context, stmts map[**sql.Stmt]string) error {
	for s, query := range stmts {
		var err error
		if *s, err = c.PrepareContext(ctx, query); err != nil {
			return fmt.Errorf("prepare %q: %w", query, err)
		}
		c.stmts = append(c.stmts, *s)
	}
	return nil
}

// rollback ends the transaction that is open, if one is. It reports an error
// when the connection cannot be trusted any more.
//
// SQLite rolls back by itself on some errors and not on others. The driver does
// not show sqlite3_get_autocommit, but the failing ROLLBACK says the same.
func (c *conn) rollback(ctx context.Context) error {
	err := c.exec(ctx, "ROLLBACK")
	if err != nil && strings.Contains(err.Error(), "no transaction is active") {
		return nil
	}
	return err
}

// pagesWritten counts the pages that this connection wrote to the WAL, since
// it was opened.
func (c *conn) pagesWritten() (n int, err error) {
	err = c.Raw(func(dc any) error {
		s, ok := dc.(sqlite.DBStatus)
		if !ok {
			return errors.New("the SQLite driver has no status counters")
		}
		n, _, err = s.Status(sqlite.DBStatusCacheWrite, false)
		return err
	})
	return n, err
}
