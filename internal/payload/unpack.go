package payload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Names below the data directory.
const (
	storeName   = "data"     // holds the payload directories
	currentName = "current"  // symbolic link to the newest of them
	lockName    = ".lock"    // flock: one process at a time changes the store
	stagingName = ".staging" // a directory being written or removed; with the lock held, any found is a left-over
)

// check tells what is wrong with the payload directory at root: errAbsent when
// there is none, nil when it is good.
type check func(ctx context.Context, root, manifestSum string) error

func unpack(ctx context.Context, a archive, dataDir string, look check) (Dir, error) {
	dataDir, err := filepath.Abs(dataDir)
	if err != nil {
		return Dir{}, fmt.Errorf("data directory %s: %w", dataDir, err)
	}
	store := filepath.Join(dataDir, storeName)
	dir := Dir{Root: filepath.Join(store, a.sum)}
	if err := os.MkdirAll(store, 0o755); err != nil {
		return Dir{}, explain(fmt.Errorf("create payload directory: %w", err), dataDir, 0)
	}
	if err := checkExec(store); err != nil {
		return Dir{}, err
	}

	unlock, err := lock(ctx, store)
	if errors.Is(err, unix.EROFS) && look(ctx, dir.Root, a.manifestSum) == nil {
		return dir, nil // a read-only system with everything in place
	}
	if err != nil {
		return Dir{}, explain(fmt.Errorf("lock payload directory: %w", err), store, 0)
	}
	defer unlock()

	if damage := look(ctx, dir.Root, a.manifestSum); damage != nil {
		if err := ctx.Err(); err != nil {
			return Dir{}, err
		}
		if err := install(ctx, a, store, dir.Root); err != nil {
			return Dir{}, fmt.Errorf("unpack payload to %s: %w", store, err)
		}
		dir.Unpacked = true
		if !errors.Is(damage, errAbsent) {
			dir.Damage = damage
		}
	}
	if err := setCurrent(store, a.sum); err != nil {
		return Dir{}, explain(fmt.Errorf("set %s: %w", filepath.Join(store, currentName), err), store, 0)
	}
	return dir, nil
}

// install writes the payload beside its place and then puts it there in one step.
func install(ctx context.Context, a archive, store, root string) (err error) {
	staging := filepath.Join(store, stagingName)
	if err := os.RemoveAll(staging); err != nil {
		return explain(fmt.Errorf("remove what an interrupted unpack left: %w", err), store, 0)
	}
	// Whatever happens, staging is gone at the end: unfinished or replaced files.
	defer func() {
		if rerr := os.RemoveAll(staging); err == nil && rerr != nil && !errors.Is(rerr, unix.EIO) {
			err = fmt.Errorf("remove the replaced payload: %w", rerr)
		}
	}()
	to, err := newDirSink(staging)
	if err != nil {
		return explain(err, store, 0)
	}
	defer to.close()
	if err := a.extract(ctx, to); err != nil {
		return explain(err, store, to.need)
	}
	if err := to.sync(); err != nil {
		return explain(err, store, to.need)
	}
	if err := swapIn(staging, root); err != nil {
		return explain(err, store, to.need)
	}
	return nil
}
