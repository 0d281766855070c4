package sqlog

import (
	"context"
	"database/sql"
	"errors"
	"os"
)

// Contents is what a database holds.
type Contents struct {
	// Created is when the database was made, in seconds of Unix time. Copies
	// and restored ones keep it: it tells databases apart.
	Created   int64
	Revision  int64 // the last revision that it knows of
	Compacted int64
	Keys      int64 // counted only by Verify
}

// Verify reads the whole database, which nobody has open, and fails if anything
// is wrong with it. It changes nothing.
func Verify(ctx context.Context, path string) (Contents, error) {
	c, err := examine(ctx, path, func(c *conn, found *Contents) (err error) {
		if err := QuickCheck(ctx, c); err != nil {
			return err
		}
		// Records that others supersede, and tombstones, are no keys.
		found.Keys, err = c.int(ctx, "SELECT count(*) FROM log WHERE version > 0 AND id NOT IN (SELECT prev FROM log)")
		return err
	})
	return c, wrap("verify", path, err)
}

// Peek reads what little is needed to recognise a database, which nobody has
// open. It may succeed on a damaged one. It changes nothing.
func Peek(ctx context.Context, path string) (Contents, error) {
	c, err := examine(ctx, path, func(*conn, *Contents) error { return nil })
	return c, wrap("look at", path, err)
}

func examine(ctx context.Context, path string, more func(*conn, *Contents) error) (_ Contents, err error) {
	for _, name := range []string{path + "-wal", path + "-shm"} { // SQLite may make them to read
		if _, err := os.Lstat(name); errors.Is(err, os.ErrNotExist) {
			defer func() { _ = os.Remove(name) }()
		}
	}
	c, err := openConn(ctx, path, connOptions{readOnly: true, cacheKiB: 2000})
	if err != nil {
		return Contents{}, err
	}
	defer c.close()
	f := &found{}
	if err := f.identify(ctx, c); err != nil {
		return Contents{}, err
	}
	if err := f.readMeta(ctx, c); err != nil {
		return Contents{}, err
	}
	if f.lastID, err = c.int(ctx, "SELECT coalesce(max(id), 0) FROM log"); err != nil {
		return Contents{}, err
	}
	st, err := f.state(0)
	if err != nil {
		return Contents{}, err
	}
	contents := Contents{Revision: st.Revision, Compacted: f.compacted}
	contents.Created, err = c.int(ctx, "SELECT value FROM meta WHERE name = 'created' AND typeof(value) = 'integer'")
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return Contents{}, err
	}
	if err := more(c, &contents); err != nil {
		return Contents{}, err
	}
	return contents, nil
}
