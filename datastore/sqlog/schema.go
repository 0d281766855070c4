package sqlog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// schemaVersion is in the header of the database (user_version), and
// applicationID beside it: they can be read whatever the tables look like.
const (
	schemaVersion = 1
	applicationID = 0x4c6d7074 // "Lmpt"
)

// SQLite stores these texts as they are, and they are compared when a database
// is opened: a change makes another schema.
const (
	metaTable  = "CREATE TABLE meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID"
	logTable   = "CREATE TABLE log(id INTEGER PRIMARY KEY, prev INTEGER, key BLOB, create_rev INTEGER, version INTEGER, lease INTEGER, value BLOB)"
	leaseTable = "CREATE TABLE lease(id INTEGER PRIMARY KEY, ttl INTEGER)"

	// clean: 0 while in use. revision: what no revision may be below. compacted:
	// the compact revision. swept: the last row that Sweep is done with.
	schema = metaTable + ";" + logTable + ";" + leaseTable + `;
		INSERT INTO meta VALUES('clean', 1), ('revision', 0), ('compacted', 0), ('swept', 0), ('created', %d);
		PRAGMA application_id = %d;
		PRAGMA user_version = %d`
)

// create makes an empty database. It gets its name when it is complete, so a
// file of this name is never half a database.
func create(ctx context.Context, o Options) error {
	tmp := o.Path + ".new"
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} { // of an attempt that was cut off
		if err := os.Remove(tmp + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // SQLite would use the umask
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := fill(ctx, tmp, o.PageSize); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	if err := syncFile(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, o.Path); err != nil {
		return err
	}
	return syncFile(filepath.Dir(o.Path))
}

func fill(ctx context.Context, path string, pageSize int) error {
	c, err := openConn(ctx, path, connOptions{cacheKiB: 100, pageSize: pageSize})
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.exec(ctx, "PRAGMA journal_mode=wal"); err != nil {
		return err
	}
	if err := c.exec(ctx, fmt.Sprintf(schema, time.Now().Unix(), applicationID, schemaVersion)); err != nil {
		return err
	}
	// What Close does by itself, except that it would not report an error.
	return c.exec(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// found is what a database says about itself.
type found struct {
	clean                    bool
	floor, compacted, swept  int64
	lastID                   int64
	pageSize, version, appID int64
	tables                   map[string]string // their SQL
}

// inspect looks at the database through a connection that cannot change it,
// and
// removes the files that SQLite makes to do so if it cannot be used.
func inspect(ctx context.Context, o Options) (_ *found, _ State, err error) {
	defer func() { err = blameFile(err) }()
	for _, name := range []string{o.Path + "-wal", o.Path + "-shm"} {
		if _, missing := os.Lstat(name); errors.Is(missing, os.ErrNotExist) {
			defer func() {
				if err != nil {
					_ = os.Remove(name)
				}
			}()
		}
	}
	c, err := openConn(ctx, o.Path, connOptions{readOnly: true, cacheKiB: 2000})
	if err != nil {
		return nil, State{}, err
	}
	defer c.close()
	f := &found{}
	if err := f.identify(ctx, c); err != nil {
		return nil, State{}, err
	}
	if err := f.readMeta(ctx, c); err != nil {
		return nil, State{}, err
	}
	if !f.clean {
		start := time.Now()
		if err := QuickCheck(ctx, c); err != nil {
			return nil, State{}, err
		}
		o.Logger.Info("checked the datastore", "file", o.Path, "duration", time.Since(start).Round(time.Millisecond))
	}
	if f.lastID, err = c.int(ctx, "SELECT coalesce(max(id), 0) FROM log"); err != nil {
		return nil, State{}, err
	}
	st, err := f.state(o.Margin)
	return f, st, err
}

// identify makes sure that the database is one of ours.
func (f *found) identify(ctx context.Context, c *conn) (err error) {
	for pragma, n := range map[string]*int64{"page_size": &f.pageSize, "user_version": &f.version, "application_id": &f.appID} {
		if *n, err = c.int(ctx, "PRAGMA "+pragma); err != nil {
			return err
		}
	}
	if f.tables, err = readTables(ctx, c); err != nil {
		return err
	}
	_, kine := f.tables["kine"]
	switch {
	case kine:
		return fmt.Errorf("%w: it is a database of kine, as k3s uses it", ErrForeign)
	case f.appID != applicationID:
		return fmt.Errorf("%w: its application id is %#x, not %#x", ErrForeign, f.appID, applicationID)
	case f.version > schemaVersion:
		return fmt.Errorf("%w: it is of schema %d, and this version knows %d: use the version that wrote it, or a later one",
			ErrSchema, f.version, schemaVersion)
	case f.version != schemaVersion:
		return fmt.Errorf("%w: %d", ErrSchema, f.version)
	}
	for name, sql := range map[string]string{"meta": metaTable, "log": logTable, "lease": leaseTable} {
		if f.tables[name] != sql {
			return fmt.Errorf("%w: the definition of table %s is missing or wrong: %q", ErrCorrupt, name, f.tables[name])
		}
	}
	return nil
}

func readTables(ctx context.Context, c *conn) (map[string]string, error) {
	rows, err := c.QueryContext(ctx, "SELECT name, coalesce(sql, '') FROM sqlite_schema WHERE type = 'table'")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	tables := map[string]string{}
	for rows.Next() {
		var name, sql string
		if err := rows.Scan(&name, &sql); err != nil {
			return nil, err
		}
		tables[name] = sql
	}
	return tables, rows.Err()
}

func (f *found) readMeta(ctx context.Context, c *conn) error {
	var clean int64
	for name, n := range map[string]*int64{"clean": &clean, "revision": &f.floor, "compacted": &f.compacted, "swept": &f.swept} {
		var err error
		*n, err = c.int(ctx, "SELECT value FROM meta WHERE name = ? AND typeof(value) = 'integer'", name)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%w: %s is missing", ErrCorrupt, name)
		}
		if err != nil {
			return err
		}
	}
	f.clean = clean == 1
	return nil
}

// QuickCheck lets SQLite verify every page of a database; ErrCorrupt says what is
// wrong with it.
func QuickCheck(ctx context.Context, c interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}) error {
	rows, err := c.QueryContext(ctx, "PRAGMA quick_check(3)")
	if err != nil {
		return err
	}
	defer rows.Close()
	var faults []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return err
		}
		faults = append(faults, s)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if len(faults) == 1 && faults[0] == "ok" {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrCorrupt, strings.Join(faults, "; "))
}

// state decides where the revisions go on.
//
// A compaction or a bump may be newer than the newest row: rows that Sweep
// deleted were at most at the compact revision.
func (f *found) state(margin int64) (State, error) {
	st := State{
		Clean:     f.clean,
		Revision:  max(f.floor, f.compacted, Revision(f.lastID)),
		Compacted: f.compacted,
		Schema:    int(f.version),
	}
	if f.floor < 0 || f.compacted < 0 || f.lastID < 0 || f.swept < 0 || f.swept > ID(f.compacted, MaxSub) {
		return State{}, fmt.Errorf("%w: revision %d, compacted %d, swept %d, last record %d do not fit together",
			ErrCorrupt, f.floor, f.compacted, f.swept, f.lastID)
	}
	if f.clean {
		return st, nil
	}
	if st.Revision > MaxRevision-margin {
		return State{}, fmt.Errorf("revision %d cannot be moved by %d: revisions are used up", st.Revision, margin)
	}
	st.Bumped = true
	st.Revision += margin
	st.Compacted = st.Revision
	return st, nil
}
