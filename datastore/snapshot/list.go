package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/limpetio/limpet/datastore/sqlog"
	"github.com/limpetio/limpet/internal/atomicfile"
)

// Info is a snapshot in a directory or a bucket.
type Info struct {
	// Manifest is what the file says. Of a damaged one only what its name
	// says is there: Name, Node, Created and Revision.
	Manifest
	Path  string `json:"path,omitempty"` // of a local one
	Bytes int64  `json:"bytes"`          // of the file
	// Damage is why the manifest cannot be read, empty if it can. The database
	// behind it is looked at only by Verify.
	Damage string `json:"damage,omitempty"`
}

// List returns the snapshots in dir, newest first, and none if there is no such
// directory. Files with other names are not mentioned.
func List(dir string) ([]Info, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list snapshots in %s: %w", dir, err)
	}
	var list []Info
	for _, e := range entries {
		if _, err := parseName(e.Name()); err == nil {
			list = append(list, readInfo(filepath.Join(dir, e.Name())))
		}
	}
	slices.SortFunc(list, newestFirst)
	return list, nil
}

// readInfo reads the manifest of a file that has a snapshot's name.
func readInfo(path string) Info {
	f, stat, err := openRegular(path)
	if err != nil {
		return withDamage(Info{Path: path}, filepath.Base(path), err)
	}
	defer f.Close()
	info := Info{Path: path, Bytes: stat.Size()}
	m, err := readManifest(f)
	if err != nil {
		return withDamage(info, filepath.Base(path), err)
	}
	info.Manifest = m
	info.Name = filepath.Base(path) // the one to find it by
	return info
}

func withDamage(info Info, file string, err error) Info {
	info.Damage = err.Error()
	info.Name = file
	if n, err := parseName(file); err == nil {
		info.Node, info.Created, info.Revision = n.Node, n.Created, n.Revision
	}
	return info
}

// newestFirst is the order of snapshots of one database: see the package
// comment. The name settles the rest, so that the order is always the same.
func newestFirst(a, b Info) int {
	again := func(i Info) int { n, _ := parseName(i.Name); return n.Again }
	return cmp.Or(cmp.Compare(b.Revision, a.Revision), b.Created.Compare(a.Created),
		cmp.Compare(again(b), again(a)), cmp.Compare(b.Name, a.Name))
}

// Verify proves that the snapshot at path can be restored: it decompresses it,
// compares the content with its sha256, and lets SQLite check all of it. For
// that it needs the space of the database in tempDir; if that is empty, beside
// the snapshot or, where it is read-only, in the system's temporary directory.
func Verify(ctx context.Context, path, tempDir string) (Info, error) {
	info, err := verify(ctx, path, tempDir)
	if err != nil {
		return info, fmt.Errorf("verify snapshot %s: %w", path, noSpace(err))
	}
	return info, nil
}

func verify(ctx context.Context, path, tempDir string) (Info, error) {
	tmp, remove, err := verifyDir(ctx, filepath.Dir(path), tempDir)
	if err != nil {
		return Info{}, err
	}
	defer remove()
	_, err = extract(ctx, path, filepath.Join(tmp, "db"))
	info := readInfo(path)
	return info, err
}

// verifyDir makes a temporary directory.
func verifyDir(ctx context.Context, beside, tempDir string) (tmp string, remove func(), err error) {
	unlock := func() {}
	if tempDir == "" {
		if _, err := os.Stat(beside); err != nil {
			return "", nil, err
		}
		// With the lock, as Save removes what looks abandoned.
		if unlock, err = lockDir(ctx, beside); err == nil {
			tempDir = beside
		} else if ctx.Err() != nil {
			return "", nil, err
		} else {
			unlock = func() {}
		}
	}
	tmp, err = os.MkdirTemp(tempDir, tempPrefix)
	if err != nil {
		unlock()
		return "", nil, err
	}
	return tmp, func() { _ = os.RemoveAll(tmp); unlock() }, nil
}

// extract puts the database of a snapshot into a new file, and makes sure that
// it is good. The file is not synced; when extract fails it may be there.
func extract(ctx context.Context, path, db string) (Manifest, error) {
	in, _, err := openRegular(path)
	if err != nil {
		return Manifest{}, err
	}
	defer in.Close()
	m, err := readManifest(in)
	if err != nil {
		return m, err
	}
	if err := requireSpace(filepath.Dir(db), m.Size); err != nil {
		return m, err
	}
	if _, err := in.Seek(0, 0); err != nil {
		return m, err
	}
	out, err := os.OpenFile(db, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return m, err
	}
	defer out.Close()
	if _, err := unpack(ctx, in, out); err != nil {
		return m, err
	}
	if err := out.Close(); err != nil {
		return m, err
	}
	found, err := sqlog.Verify(ctx, db)
	if err != nil {
		return m, err
	}
	if found.Keys != m.Keys || found.Revision != m.Revision || found.Created != m.Database {
		return m, fmt.Errorf("%w: the manifest says %d keys at revision %d of database %d, the content is %d keys at revision %d of database %d",
			ErrDamaged, m.Keys, m.Revision, m.Database, found.Keys, found.Revision, found.Created)
	}
	return m, nil
}

// Delete deletes a snapshot of dir by its name.
func Delete(ctx context.Context, dir, name string) error {
	_, err := parseName(name)
	if err == nil {
		err = locked(ctx, dir, func() error { return removeAll(dir, name) })
	}
	if err != nil {
		return fmt.Errorf("delete snapshot in %s: %w", dir, err)
	}
	return nil
}

func removeAll(dir string, names ...string) error {
	for _, n := range names {
		if err := os.Remove(filepath.Join(dir, n)); err != nil {
			return err
		}
	}
	return atomicfile.SyncDir(dir)
}
