// Package payload carries the helper executables inside the limpet binary and
// unpacks them to disk: what must be a separate process, or would cost too much
// as one of a 190 MB binary (runc, containerd's shim, the CNI plugins, nft), and
// the image of the pause container.
//
// scripts/payload/build makes the archive. On disk there is one directory for each
// version of it:
//
//	<data>/data/<sha256 of the archive>/MANIFEST    mode, size, sha256 and path of every file
//	<data>/data/<sha256 of the archive>/bin/        runc, containerd-shim-runc-v2, nft, CNI plugins
//	<data>/data/<sha256 of the archive>/lib/        nft's loader and libraries
//	<data>/data/<sha256 of the archive>/libexec/    nft itself; bin/nft starts it
//	<data>/data/<sha256 of the archive>/share/      licences of what is Debian's
//	<data>/data/<sha256 of the archive>/pause.tar   image archive of PauseReference
//	<data>/data/current                             symbolic link to the newest
//
// A directory is complete or absent: it is written under another name, checked,
// synced and renamed. Running shims keep executables of older versions open, so
// these stay until nobody uses them (Collect).
package payload

import (
	"context"
	"fmt"
	"path/filepath"
)

// PauseReference is the image reference inside pause.tar.
const PauseReference = "limpet.io/pause:1"

// Dir is an unpacked payload.
type Dir struct {
	// Root is the absolute path of the directory.
	Root string
	// Unpacked tells that this call wrote the directory; false when it was there.
	Unpacked bool
	// Damage is what was wrong with an existing directory that was therefore
	// replaced; nil otherwise.
	Damage error
}

// Bin returns the directory of the executables: PATH of the container runtime and
// the bin_dir of CNI.
func (d Dir) Bin() string { return filepath.Join(d.Root, "bin") }

// Tool returns the path of one executable, such as "runc" or "nft".
func (d Dir) Tool(name string) string { return filepath.Join(d.Bin(), name) }

// PauseArchive returns the path of the image archive of PauseReference.
func (d Dir) PauseArchive() string { return filepath.Join(d.Root, "pause.tar") }

// Unpack makes sure that the embedded payload is in <dataDir>/data and returns
// where. When it is there already, only the manifest, sizes and modes are checked,
// which takes about a millisecond; a damaged directory is unpacked anew and
// replaced in one step.
//
// Several processes may call it at once: one unpacks, the others wait for it, until
// ctx is done. On error nothing was changed. The errors say what to do about a full
// or read-only file system (NoSpaceError, syscall.EROFS), a noexec mount
// (ErrNoExec) and a damaged limpet binary (ErrDamaged).
func Unpack(ctx context.Context, dataDir string) (Dir, error) {
	archive, err := embedded()
	if err != nil {
		return Dir{}, err
	}
	return unpack(ctx, archive, dataDir, quickCheck)
}

// Repair is Unpack, but compares the content of every file too: flash memory
// flips bits that sizes and modes do not show. It reads 40 MB, so call it beside the
// work that waits for Unpack, not before it. Running executables are not disturbed
// by a replacement.
func Repair(ctx context.Context, dataDir string) (Dir, error) {
	archive, err := embedded()
	if err != nil {
		return Dir{}, err
	}
	return unpack(ctx, archive, dataDir, fullCheck)
}

// Collect removes payloads of other versions of limpet from <dataDir>/data that no
// process executes or maps and nothing is mounted in, and what an interrupted
// unpack left. It never removes the embedded version nor the one that `current`
// points to. It goes on after an error and returns the names that it removed.
func Collect(ctx context.Context, dataDir string) (removed []string, err error) {
	archive, err := embedded()
	if err != nil {
		return nil, err
	}
	return collect(ctx, filepath.Join(dataDir, storeName), archive.sum, procDir)
}

func embedded() (archive, error) {
	a, err := newArchive(archiveData, archiveSums)
	if err != nil {
		return archive{}, fmt.Errorf("embedded payload: %w", err)
	}
	return a, nil
}
