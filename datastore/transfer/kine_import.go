package transfer

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"syscall"

	"modernc.org/sqlite"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// ImportKine makes the Limpet datastore dst of the kine database src: state.db
// of k3s, or of Limpet before it had a datastore of its own. src is only read,
// at one moment, with the WAL beside it if there is one (whose index, the -shm
// file, SQLite may make anew); k3s may be running, but what it writes afterwards
// does not come along.
//
// Keys have the revisions that they had. kine does not count versions: a key has
// version 1 if it was not changed since it was created, else 2.
//
// dst may be src, with Options.Replace, when nobody uses it.
func ImportKine(ctx context.Context, src, dst string, o Options) (Report, error) {
	return importTo(ctx, src, dst, o, func(ctx context.Context, l *loader) error {
		inPlace := sameFile(src, dst)
		user, err := userOf(src)
		if err != nil {
			return err
		}
		if l.report.InUse = user != ""; l.report.InUse {
			if inPlace {
				return fmt.Errorf("%w: %s has %s open; stop k3s first", ErrInUse, user, src)
			}
			l.opts.Logger.Warn("the kine database is in use: what is written from now on is not imported", "file", src, "by", user)
		}
		s, err := openKine(ctx, src)
		if err != nil {
			return sourceError(err)
		}
		err = s.copyTo(ctx, l)
		s.close()
		if err == nil {
			err = s.unchanged()
		}
		if err == nil && inPlace {
			if user, err = userOf(src); user != "" {
				err = fmt.Errorf("%w: %s has opened %s meanwhile; stop k3s first", ErrInUse, user, src)
			}
		}
		return sourceError(err)
	})
}

func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// userOf tells who has a SQLite database open; empty if nobody has. Whoever uses
// one with a WAL holds a shared lock all the time: on these bytes of the file, by
// SQLite's file format. It must not be called while this process has it open:
// closing the file would drop its locks.
func userOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Start: 0x40000002, Len: 510}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err != nil {
		return "", fmt.Errorf("ask who uses %s: %w", path, err)
	}
	switch {
	case lock.Type == syscall.F_UNLCK:
		return "", nil
	case lock.Pid <= 0:
		return "a process of another container", nil
	}
	return fmt.Sprintf("process %d", lock.Pid), nil
}

// kineSource is a kine database that is being read.
type kineSource struct {
	*sql.Conn
	path   string
	close  func()
	alone  bool // it is read without locks, since nobody has it open
	before fs.FileInfo
}

// openKine opens a database and looks at whether it is what it should be.
func openKine(ctx context.Context, path string) (_ *kineSource, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return nil, fmt.Errorf("%w: it is no file, or an empty one", ErrForeign)
	}
	s := &kineSource{path: path, before: info}
	query := url.Values{"mode": {"ro"}}
	if !exists(path+"-wal") && !exists(path+"-journal") {
		// SQLite would make files beside it to share it with others.
		query.Set("immutable", "1")
		s.alone = true
	}
	if s.Conn, s.close, err = openSQLite(ctx, path, query, "query_only=on", "cache_size=-4000"); err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// begin starts the transaction that all is read in.
func (s *kineSource) begin(ctx context.Context) error {
	if _, err := s.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	if err := s.checkSchema(ctx); err != nil {
		return err
	}
	if err := sqlog.QuickCheck(ctx, s.Conn); err != nil {
		return rowError(0, err)
	}
	return nil
}

func (s *kineSource) checkSchema(ctx context.Context) error {
	var version, app int64
	if err := s.QueryRowContext(ctx, "SELECT user_version, application_id FROM pragma_user_version, pragma_application_id").Scan(&version, &app); err != nil {
		return err
	}
	columns, err := s.strings(ctx, "SELECT name FROM pragma_table_info('kine')")
	if err != nil {
		return err
	}
	want := kineColumns()
	switch {
	case len(columns) == 0 && app != 0:
		return fmt.Errorf("%w: it belongs to another program (application id %#x); Limpet's own cannot be imported", ErrForeign, app)
	case len(columns) == 0:
		return fmt.Errorf("%w: it has no table kine", ErrForeign)
	case slices.ContainsFunc(want, func(c string) bool { return !slices.Contains(columns, c) }):
		return fmt.Errorf("%w: its table kine has the columns %q, and not %q", ErrForeign, columns, want)
	case len(columns) != len(want) || version != 0:
		// What a column means that is not known here cannot be guessed.
		return fmt.Errorf("%w: its table kine has the columns %q, its version is %d; import it with a newer Limpet", ErrNewer, columns, version)
	}
	return nil
}

func (s *kineSource) strings(ctx context.Context, query string) ([]string, error) {
	rows, err := s.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

// unchanged makes sure that nobody wrote to a database that was read without locks.
func (s *kineSource) unchanged() error {
	if !s.alone {
		return nil
	}
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	if info.Size() != s.before.Size() || !info.ModTime().Equal(s.before.ModTime()) || exists(s.path+"-wal") {
		return fmt.Errorf("%w: %s; stop k3s and try again", ErrChanged, s.path)
	}
	return nil
}

// newest finds the newest row of each key, and the newest revision. It does not
// trust the indices: they are not checked.
func (s *kineSource) newest(ctx context.Context) (ids []int64, revision, dropped int64, err error) {
	rows, err := s.QueryContext(ctx, "SELECT id, CAST(name AS BLOB), deleted FROM kine ORDER BY id")
	if err != nil {
		return nil, 0, 0, err
	}
	defer rows.Close()
	live := map[string]int64{}
	for rows.Next() {
		var name sql.RawBytes
		var deleted sql.NullInt64
		if err := rows.Scan(&revision, &name, &deleted); err != nil {
			return nil, 0, 0, rowError(revision, err)
		}
		switch {
		case revision <= 0:
			return nil, 0, 0, fmt.Errorf("%w: a row has the revision %d", ErrDamaged, revision)
		case string(name) == kineCompact, len(name) == 0: // no keys
			dropped++
		case deleted.Int64 != 0: // a key, or what fills a gap
			delete(live, string(name))
		default:
			live[string(name)] = revision
		}
	}
	if err := rows.Err(); err != nil {
		return nil, 0, 0, err
	}
	for _, id := range live {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, revision, dropped, nil
}

// rowError is for a row that cannot be read, or does not hold what it should.
func rowError(id int64, err error) error {
	if serr := (*sqlite.Error)(nil); errors.As(err, &serr) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("read revision %d: %w", id, err)
	}
	return fmt.Errorf("%w: revision %d: %w", ErrDamaged, id, err)
}

func (s *kineSource) copyTo(ctx context.Context, l *loader) error {
	ids, revision, dropped, err := s.newest(ctx)
	if err != nil {
		return err
	}
	if revision > sqlog.MaxRevision {
		return fmt.Errorf("%w: its revision is %d", ErrDamaged, revision)
	}
	l.report.SourceRevision, l.report.Dropped = revision, dropped
	l.expect(int64(len(ids)))
	row, err := s.PrepareContext(ctx,
		"SELECT CAST(name AS BLOB), created, create_revision, lease, value FROM kine WHERE id = ?")
	if err != nil {
		return err
	}
	defer row.Close()
	groups := leaseGroups{}
	for _, id := range ids {
		r := sqlog.Record{ID: sqlog.ID(id, 0)}
		var name []byte
		var created, createRevision, ttl sql.NullInt64
		if err := row.QueryRowContext(ctx, id).Scan(&name, &created, &createRevision, &ttl, &r.Value); err != nil {
			return rowError(id, err)
		}
		r.Key = string(name)
		r.CreateRevision, r.Version = createRevision.Int64, 2
		if created.Int64 != 0 || createRevision.Int64 <= 0 || createRevision.Int64 >= id {
			r.CreateRevision, r.Version = id, 1
		}
		if r.Key == kineCompactAPI {
			version, value, ok := splitVersion(r.Value)
			if !ok { // the apiserver makes it anew
				l.report.Dropped++
				continue
			}
			r.Key, r.Version, r.Value = compactKey, version, value
		}
		if ttl.Int64 > 0 {
			r.Lease = groups.attach(l, ttl.Int64)
		}
		if err := l.put(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// leaseGroups makes leases for keys that only have a TTL. Keys share one, since
// thousands of leases would cost memory and writes. But not more than the
// apiserver attaches to one of its own: all keys of a lease are deleted in one
// transaction.
type leaseGroups map[int64]*leaseGroup

type leaseGroup struct {
	id   int64
	keys int
}

// leaseKeys is DefaultLeaseMaxObjectCount of the apiserver.
const leaseKeys = 1000

func (g leaseGroups) attach(l *loader, ttl int64) int64 {
	group := g[ttl]
	if group == nil || group.keys == leaseKeys {
		group = &leaseGroup{id: int64(len(l.leases)) + 1}
		g[ttl] = group
		l.lease(group.id, min(max(ttl, minTTL), maxTTL))
	}
	group.keys++
	return group.id
}

// maxTTL is etcd's limit, in seconds.
const maxTTL = 9_000_000_000
