package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/limpetio/limpet/agent/containerd/boltcheck"
)

const (
	metadataDB    = "io.containerd.metadata.v1.bolt/meta.db"
	snapshotterDB = "io.containerd.snapshotter.v1.*/metadata.db"
	brokenSuffix  = ".broken-"
	suspectMarker = "metadata-suspect"
)

// repairMetadata looks at containerd's databases below root before containerd
// opens them. If one is corrupt, as after a power cut on a disk that lies about
// its flushes, it puts them aside, so that containerd begins anew: images are
// imported or pulled again and the kubelet makes its pods again. The other way
// would be a node that never starts.
//
// What containerd knows is spread over one database for everything and one for
// each snapshotter, which refer to each other, so either all are kept or none.
// Layers already downloaded are found again by their digests.
func repairMetadata(root string, now time.Time, log *slog.Logger) error {
	reason, err := findCorruption(root)
	if err != nil || reason == "" {
		return err
	}
	aside, err := setMetadataAside(root, now)
	if err != nil {
		return fmt.Errorf("%s, and putting it aside failed: %w", reason, err)
	}
	log.Error("containerd's database was broken: starting with an empty one; images are imported or pulled again",
		"reason", reason, "kept", aside)
	return nil
}

// findCorruption returns what is wrong, or "".
func findCorruption(root string) (string, error) {
	snapshotters, err := filepath.Glob(filepath.Join(root, snapshotterDB))
	if err != nil {
		return "", err
	}
	for _, path := range append([]string{filepath.Join(root, metadataDB)}, snapshotters...) {
		if strings.Contains(path, brokenSuffix) {
			continue
		}
		switch err := boltcheck.File(path); {
		case err == nil, errors.Is(err, fs.ErrNotExist):
		case errors.Is(err, boltcheck.ErrCorrupt):
			return err.Error(), nil
		default:
			return "", fmt.Errorf("containerd's database: %w", err)
		}
	}
	if reason, err := os.ReadFile(filepath.Join(root, suspectMarker)); err == nil {
		return string(bytes.TrimSpace(reason)), nil
	}
	return "", nil
}

// setMetadataAside renames the databases and returns where the main one is now.
// The snapshots go too, because a new database would number its own from 1
// again; sweepBroken deletes them later.
func setMetadataAside(root string, now time.Time) (kept string, err error) {
	suffix := brokenSuffix + now.UTC().Format("20060102T150405")
	path := filepath.Join(root, metadataDB)
	old, err := filepath.Glob(path + brokenSuffix + "*")
	if err != nil {
		return "", err
	}
	for _, f := range old { // one is enough to look into
		if err := os.Remove(f); err != nil {
			return "", err
		}
	}
	if err := os.Rename(path, path+suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	dirs, err := filepath.Glob(filepath.Dir(filepath.Join(root, snapshotterDB)))
	if err != nil {
		return "", err
	}
	for _, dir := range dirs {
		if strings.Contains(dir, brokenSuffix) {
			continue
		}
		if err := os.Rename(dir, dir+suffix); err != nil {
			return "", err
		}
	}
	if err := os.Remove(filepath.Join(root, suspectMarker)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return path + suffix, nil
}

// sweepBroken deletes the snapshots that setMetadataAside left, in the background
// of a running containerd: it can take minutes. What is left when ctx is done
// goes after the next start.
func sweepBroken(ctx context.Context, root string) error {
	dirs, err := filepath.Glob(filepath.Dir(filepath.Join(root, snapshotterDB)) + brokenSuffix + "*")
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		snapshots, err := filepath.Glob(filepath.Join(dir, "snapshots", "*"))
		if err != nil {
			return err
		}
		for _, path := range append(snapshots, dir) {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the next start goes on
			}
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("delete broken snapshots: %w", err)
			}
		}
	}
	return nil
}

// markSuspect makes the next start put the databases aside, after bbolt panicked
// on something that the check before did not see.
func markSuspect(root, reason string) error {
	return os.WriteFile(filepath.Join(root, suspectMarker), []byte(reason+"\n"), 0o600)
}
