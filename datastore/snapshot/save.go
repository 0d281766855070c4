package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/limpetio/limpet/datastore/sqlog"
	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/version"
)

// Source is what snapshots are taken of: a running sqlog.Log.
type Source interface {
	// Backup writes a consistent copy of the database to a new file.
	Backup(ctx context.Context, path string) error
}

// sized is a source that knows how large a copy can be.
type sized interface{ Stats() sqlog.Stats }

// SaveOptions say what stands in the manifest.
type SaveOptions struct {
	Node   string
	Reason Reason           // Manual if empty
	Now    func() time.Time // time.Now if nil
}

// spareSpace stays free for the datastore while a snapshot is being made.
const spareSpace = 32 << 20

// Save takes a snapshot into dir, which it creates if necessary. When it
// returns nil the snapshot is complete, checked and on the disk; otherwise
// there is none, and no other has changed.
func Save(ctx context.Context, source Source, dir string, o SaveOptions) (Info, error) {
	info, err := save(ctx, source, dir, o)
	if err != nil {
		return Info{}, fmt.Errorf("save snapshot in %s: %w", dir, noSpace(err))
	}
	return info, nil
}

func save(ctx context.Context, source Source, dir string, o SaveOptions) (Info, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Reason == "" {
		o.Reason = Manual
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Info{}, err
	}
	unlock, err := lockDir(ctx, dir)
	if err != nil {
		return Info{}, err
	}
	defer unlock()
	if s, ok := source.(sized); ok {
		// The copy, and half of it for the snapshot: it is seldom a third.
		st := s.Stats()
		if err := requireSpace(dir, (st.FileBytes+st.WALBytes)*3/2+spareSpace); err != nil {
			return Info{}, err
		}
	}
	tmp, err := os.MkdirTemp(dir, tempPrefix) // 0700; SQLite's own files land in it, too
	if err != nil {
		return Info{}, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()

	db := filepath.Join(tmp, "db")
	if err := source.Backup(ctx, db); err != nil {
		return Info{}, err
	}
	m, err := describe(ctx, db, dir, o)
	if err != nil {
		return Info{}, err
	}
	path := filepath.Join(dir, m.Name)
	if err := compress(ctx, db, m, filepath.Join(tmp, "zst"), path); err != nil {
		return Info{}, err
	}
	return readInfo(path), nil
}

// describe checks the copy and makes its manifest, with a name that no file in
// dir has. The directory is locked.
func describe(ctx context.Context, db, dir string, o SaveOptions) (Manifest, error) {
	found, err := sqlog.Verify(ctx, db)
	if err != nil {
		return Manifest{}, fmt.Errorf("the copy is not good: %w", err)
	}
	f, err := os.Open(db)
	if err != nil {
		return Manifest{}, err
	}
	defer f.Close()
	m := Manifest{
		Format: format, Node: nodeName(o.Node), Created: o.Now().UTC().Truncate(time.Second), Reason: o.Reason,
		Database: found.Created, Revision: found.Revision, Keys: found.Keys, Limpet: version.Version,
	}
	if m.Size, m.SHA256, err = digest(ctx, f); err != nil {
		return Manifest{}, err
	}
	n := name{Node: m.Node, Created: m.Created, Revision: m.Revision}
	for ; ; n.Again++ {
		if _, err := os.Lstat(filepath.Join(dir, n.String())); errors.Is(err, fs.ErrNotExist) {
			m.Name = n.String()
			return m, nil
		} else if err != nil {
			return Manifest{}, err
		}
	}
}

// compress writes the snapshot to tmp, reads it back, and gives it its name.
//
// To read it back costs little beside the rest and finds what the page cache
// has already: a faulty compressor, or memory.
func compress(ctx context.Context, db string, m Manifest, tmp, path string) error {
	in, err := os.Open(db)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := pack(ctx, out, m, in); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := unpack(ctx, out, io.Discard); err != nil {
		return fmt.Errorf("read back what was compressed: %w", err)
	}
	if err := out.Sync(); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return publish(tmp, path)
}

// publish gives a complete file its name. The directory is locked, and no file
// has this name.
func publish(tmp, path string) error {
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}
