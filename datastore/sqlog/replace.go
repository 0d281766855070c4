package sqlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/limpetio/limpet/internal/filelock"
)

// Replacing a database means to move up to three files away and one in, and a
// power cut may come between any two of these. A WAL beside a database that it
// does not belong to would be replayed into it, and a database without its WAL
// lacks its last commits. So the new database first gets a name that says what
// is going to happen, and whoever takes the lock next does the rest.
const (
	incomingSuffix = ".incoming" // a new database that is being made
	pendingInfix   = ".pending-" // a complete one that is going to be in PATH
	asideInfix     = ".aside-"   // what was in PATH before; the same stamp follows
	stampLayout    = "20060102T150405Z"
)

// parts are the files of a database. The WAL moves last: a WAL without a
// database is an error at Open, neither would be a new, empty datastore.
func parts() []string { return []string{"", "-journal", "-shm", "-wal"} }

// Lock keeps everybody else from opening the database at path, and finishes a
// Replace that was cut off. It fails with ErrInUse while a Log is open.
func Lock(path string) (release func(), err error) {
	f, err := lock(path)
	if err == nil {
		if err = settle(path, slog.New(slog.DiscardHandler)); err == nil {
			return func() { filelock.Release(f) }, nil
		}
		filelock.Release(f)
	}
	return nil, wrap("lock", path, err)
}

// settle brings what an interrupted Replace left behind to an end. The caller
// has the lock.
func settle(path string, logger *slog.Logger) error {
	aside, done, err := finishReplace(path)
	if err != nil {
		return fmt.Errorf("finish the restore that was cut off: %w", err)
	}
	if done {
		logger.Warn("finished a restore of the datastore that was cut off", "file", path, "aside", aside)
	}
	return RemoveIncoming(path)
}

// Incoming is where a database is made that is going to replace the one at
// path. What is left there by somebody who was cut off is removed by Open.
func Incoming(path string) string { return path + incomingSuffix }

// RemoveIncoming removes an incoming database that is not wanted.
func RemoveIncoming(path string) error {
	for _, part := range parts() {
		if err := os.Remove(Incoming(path) + part); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Replace puts the database at Incoming(path), which is complete and closed, in
// the place of the one at path, whose files are kept: aside is their name, or
// empty if there were none. Cut off anywhere, it either did not happen or is
// finished by the next Open or Lock. The caller holds Lock.
func Replace(path string, now time.Time) (aside string, err error) {
	if err := syncFile(Incoming(path)); err != nil {
		return "", wrap("replace", path, err)
	}
	stamp := now.UTC()
	for taken(path + asideInfix + stamp.Format(stampLayout)) {
		stamp = stamp.Add(time.Second)
	}
	if err := os.Rename(Incoming(path), path+pendingInfix+stamp.Format(stampLayout)); err != nil {
		return "", wrap("replace", path, err)
	}
	if err := syncFile(filepath.Dir(path)); err != nil {
		return "", wrap("replace", path, err)
	}
	aside, _, err = finishReplace(path)
	return aside, wrap("replace", path, err)
}

func taken(aside string) bool {
	for _, part := range parts() {
		if _, err := os.Lstat(aside + part); err == nil {
			return true
		}
	}
	return false
}

// finishReplace can be cut off and repeated: as long as the pending file is
// there, whatever has the database's name is old.
func finishReplace(path string) (aside string, done bool, err error) {
	stamps, err := stampsOf(path, pendingInfix)
	if err != nil {
		return "", false, err
	}
	for _, stamp := range stamps {
		aside = path + asideInfix + stamp
		for _, part := range parts() {
			if err := os.Rename(path+part, aside+part); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return "", false, err
			}
		}
		// Not every file system keeps the order of renames by itself.
		if err := syncFile(filepath.Dir(path)); err != nil {
			return "", false, err
		}
		if err := os.Rename(path+pendingInfix+stamp, path); err != nil {
			return "", false, err
		}
		if err := syncFile(filepath.Dir(path)); err != nil {
			return "", false, err
		}
		if !taken(aside) {
			aside = ""
		}
	}
	return aside, len(stamps) > 0, nil
}

// stampsOf returns the stamps that follow infix in names beside the database,
// in ascending order.
func stampsOf(path, infix string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var stamps []string
	for _, e := range entries {
		stamp, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+infix)
		if !ok {
			continue
		}
		for _, part := range parts() { // all end in an empty part
			if s := strings.TrimSuffix(stamp, part); part != "" && s != stamp {
				stamp = s
				break
			}
		}
		if _, err := time.Parse(stampLayout, stamp); err == nil {
			stamps = append(stamps, stamp)
		}
	}
	slices.Sort(stamps)
	return slices.Compact(stamps), nil
}

// PruneAside deletes what Replace kept, but for the newest keep of them and for
// except, and returns their names. The caller holds Lock.
func PruneAside(path string, keep int, except string) (removed []string, err error) {
	stamps, err := stampsOf(path, asideInfix)
	if err != nil {
		return nil, wrap("list what was kept of", path, err)
	}
	// except is the newest, whatever the clock said when it was made.
	stamps = slices.DeleteFunc(stamps, func(s string) bool { return path+asideInfix+s == except })
	if except != "" {
		keep--
	}
	for _, stamp := range stamps[:max(0, len(stamps)-max(keep, 0))] {
		aside := path + asideInfix + stamp
		for _, part := range parts() {
			if err := os.Remove(aside + part); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return removed, wrap("remove", aside, err)
			}
		}
		removed = append(removed, aside)
	}
	return removed, nil
}

// MarkRestored prepares a copy of a database, which nobody has open, to take the
// place of one that lived on: its revisions go on above floor, which must be
// more than any that were handed out, and all before are compacted. It stays
// marked as not closed properly, so that Open checks it and adds its margin.
func MarkRestored(ctx context.Context, path string, floor int64) error {
	if floor > MaxRevision/2 {
		return wrap("mark as restored", path, fmt.Errorf("revision %d is too large: revisions are used up", floor))
	}
	c, err := openConn(ctx, path, connOptions{cacheKiB: 100, pragmas: []string{"synchronous=full"}})
	if err != nil {
		return wrap("mark as restored", path, err)
	}
	defer c.close()
	err = c.exec(ctx, `BEGIN IMMEDIATE;
		UPDATE meta SET value = 0 WHERE name = 'clean';
		UPDATE meta SET value = max(value, ?) WHERE name IN ('revision', 'compacted');
		COMMIT`, floor)
	return wrap("mark as restored", path, err)
}
