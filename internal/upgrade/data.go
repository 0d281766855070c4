package upgrade

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	store "github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/datastore/snapshot"
	"github.com/limpetio/limpet/datastore/sqlog"
	"github.com/limpetio/limpet/internal/status"
)

// keptAside is how many datastores that were replaced are kept: all that a
// restore which is cut off again and again can make.
const keptAside = 100

// keptSnapshots of upgrades. A server takes one itself when it starts as another
// version, so that there are two or three of each.
const keptSnapshots = 4

// snapshotTimeout is how long the server may take to answer at all: the machine
// may have booted a moment ago.
const snapshotTimeout = 2 * time.Minute

// takeSnapshot takes one of the running server, or of the files if it is stopped.
func takeSnapshot(ctx context.Context, j Journal, log *slog.Logger) (path string, err error) {
	for end := time.Now().Add(snapshotTimeout); ; {
		path, again, err := trySnapshot(ctx, j, log)
		if err == nil || !again || time.Now().After(end) {
			return path, err
		}
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// trySnapshot: again is true if the server may be about to come up.
func trySnapshot(ctx context.Context, j Journal, log *slog.Logger) (path string, again bool, err error) {
	unlock, err := sqlog.Lock(j.Database)
	switch {
	case err == nil:
		unlock()
		path, err = snapshotOfFiles(ctx, j)
		return path, errors.Is(err, sqlog.ErrInUse), err // started in this moment
	case !errors.Is(err, sqlog.ErrInUse):
		return "", false, err
	}
	info, err := status.TakeSnapshot(ctx, status.Socket, snapshot.Upgrade)
	if err != nil && info.Path != "" {
		log.Warn("the snapshot was taken, with trouble", "error", err) // the upload to a bucket
		return info.Path, false, nil
	}
	again = err != nil && (errors.Is(err, status.ErrNotRunning) || strings.Contains(err.Error(), "read the answer"))
	return info.Path, again, err
}

func snapshotOfFiles(ctx context.Context, j Journal) (string, error) {
	s, err := store.Open(ctx, store.Options{Path: j.Database})
	if err != nil {
		return "", err
	}
	info, err := snapshot.Save(ctx, s.Log(), j.SnapshotDir, snapshot.SaveOptions{Node: j.Node, Reason: snapshot.Upgrade})
	return info.Path, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
}

// restoreData puts a snapshot in the place of the datastore, which is kept aside.
func restoreData(ctx context.Context, j Journal, file string, log *slog.Logger) error {
	r, err := snapshot.Restore(ctx, file, j.Database, snapshot.RestoreOptions{KeepAside: keptAside, Logger: log})
	if err != nil {
		return err
	}
	log.Info("the data of before is back", "snapshot", r.Snapshot.Name, "aside", r.Aside)
	return nil
}

// pruneSnapshots deletes those of older upgrades.
func pruneSnapshots(ctx context.Context, j Journal) error {
	if j.Snapshot == "" {
		return nil
	}
	_, err := snapshot.Prune(ctx, filepath.Dir(j.Snapshot), snapshot.Ring{Node: j.Node, Reason: snapshot.Upgrade, Keep: keptSnapshots})
	if err != nil {
		return fmt.Errorf("delete snapshots of older upgrades: %w", err)
	}
	return nil
}
