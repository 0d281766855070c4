package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/limpetio/limpet/datastore/sqlog"
	"github.com/limpetio/limpet/internal/atomicfile"
)

// RevisionGap is how many revisions a restore skips. The datastore that is
// replaced went on after the snapshot, and if it cannot be read nobody knows how
// far; no client may see one of its revisions again with another content. A
// billion is what etcd's documentation recommends for its --bump-revision: more
// than a day of 10 000 changes each second. There are enough revisions for 4000
// restores.
const RevisionGap = 1_000_000_000

// DefaultKeepAside is how many replaced datastores are kept.
const DefaultKeepAside = 2

// RestoreOptions of Restore and Recover.
type RestoreOptions struct {
	// KeepAside is how many of the datastores that were replaced, this one
	// included, are kept: DefaultKeepAside if 0. It is at least 1.
	KeepAside int
	Logger    *slog.Logger     // nil discards
	Now       func() time.Time // time.Now if nil

	// For Recover only.
	Node  string // only snapshots of this node are used; all if empty
	Cause error  // why: for the words
}

func (o RestoreOptions) complete() RestoreOptions {
	if o.KeepAside <= 0 {
		o.KeepAside = DefaultKeepAside
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Restored is what a restore did.
type Restored struct {
	Snapshot Info     `json:"snapshot"`
	Revision int64    `json:"revision"`          // all new ones are above
	Aside    string   `json:"aside,omitempty"`   // what was there before; with -wal and -shm
	Removed  []string `json:"removed,omitempty"` // those kept by earlier restores that went
}

func (r Restored) String() string {
	s := fmt.Sprintf("restored snapshot %s: %d keys as of %s, revision %d; revisions go on after %d",
		r.Snapshot.Name, r.Snapshot.Keys, r.Snapshot.Created.Format(time.RFC3339), r.Snapshot.Revision, r.Revision)
	if r.Aside != "" {
		s += "; what was there before is kept as " + r.Aside
	}
	return s
}

// Restore puts the content of a snapshot in the place of the database db. The
// server must not be running. When it fails, the database is as it was, unless
// the error says that the next start finishes.
func Restore(ctx context.Context, path, db string, o RestoreOptions) (Restored, error) {
	o = o.complete()
	unlock, err := lockDatabase(db)
	if err != nil {
		return Restored{}, fmt.Errorf("restore snapshot %s: %w", path, err)
	}
	defer unlock()
	r, err := restore(ctx, path, db, o)
	if err != nil {
		return Restored{}, fmt.Errorf("restore snapshot %s: %w", path, noSpace(err))
	}
	return r, nil
}

func lockDatabase(db string) (unlock func(), err error) {
	if info, err := os.Lstat(db); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file (%s), and replacing it would not replace what it leads to: give the real path", db, info.Mode().Type())
	}
	if err := os.MkdirAll(filepath.Dir(db), 0o700); err != nil {
		return nil, err
	}
	unlock, err = sqlog.Lock(db)
	if errors.Is(err, sqlog.ErrInUse) {
		return nil, fmt.Errorf("limpet is running with this datastore; stop it first: %w", err)
	}
	return unlock, err
}

// restore needs the lock.
func restore(ctx context.Context, path, db string, o RestoreOptions) (Restored, error) {
	m, floor, err := prepare(ctx, path, db, o)
	if err != nil {
		return Restored{}, errors.Join(err, sqlog.RemoveIncoming(db))
	}
	// From here on it is not given up: ctx does not count any more.
	if err := atomicfile.Write(floorFile(db), []byte(strconv.FormatInt(floor, 10)+"\n"), 0o600); err != nil {
		return Restored{}, placeError{errors.Join(err, sqlog.RemoveIncoming(db))}
	}
	aside, err := sqlog.Replace(db, o.Now())
	if err != nil {
		return Restored{}, placeError{fmt.Errorf("%w; if there is a file %s.pending-…, the next start tries again to put it in place", err, db)}
	}
	r := Restored{Snapshot: readInfo(path), Revision: floor, Aside: aside}
	if r.Removed, err = sqlog.PruneAside(db, o.KeepAside, aside); err != nil {
		o.Logger.Warn("old files of the datastore could not be removed", "error", err)
	}
	o.Logger.Info("restored the datastore", "snapshot", path, "keys", m.Keys, "revision", floor, "aside", aside)
	return r, nil
}

// placeError is a failure that is not the snapshot's: another would meet it, too.
type placeError struct{ error }

func (e placeError) Unwrap() error { return e.error }

// prepare makes the database that is going to be in the place of db, complete
// and on the disk.
func prepare(ctx context.Context, path, db string, o RestoreOptions) (m Manifest, floor int64, err error) {
	incoming := sqlog.Incoming(db)
	if m, err = extract(ctx, path, incoming); err != nil {
		return m, 0, err
	}
	floor = m.Revision
	if old, err := peek(ctx, db); err == nil {
		floor = max(floor, old.Revision)
	}
	before, err := readFloor(db)
	if err != nil {
		o.Logger.Warn("it cannot be read how far earlier restores moved the revision", "error", err)
	}
	floor = max(floor, before) + RevisionGap
	return m, floor, sqlog.MarkRestored(ctx, incoming, floor) // Replace syncs it
}

// peek looks at what is to be replaced, if it is there.
func peek(ctx context.Context, db string) (sqlog.Contents, error) {
	if _, err := os.Lstat(db); err != nil {
		return sqlog.Contents{}, err
	}
	return sqlog.Peek(ctx, db)
}

// floorFile remembers the revision that the last restore moved to. Without it,
// two restores of one snapshot, with a database in between that cannot be read,
// would hand out the same revisions twice.
func floorFile(db string) string { return db + ".restored" }

func readFloor(db string) (int64, error) {
	text, err := os.ReadFile(floorFile(db))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n < 0 || n > sqlog.MaxRevision {
		return 0, fmt.Errorf("%s does not hold a revision", floorFile(db))
	}
	return n, nil
}
