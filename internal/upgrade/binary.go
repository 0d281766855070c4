package upgrade

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// Where the binaries and the proofs of their origin are kept.
func stagedDir(dataDir string) string    { return filepath.Join(dir(dataDir), "staged") }
func stagedFile(dataDir string) string   { return filepath.Join(stagedDir(dataDir), "limpet") }
func previousFile(dataDir string) string { return filepath.Join(dir(dataDir), "previous") }

// ReleaseDir holds version, sha256sums and sha256sums.minisig of the installed
// binary, if they are known.
func ReleaseDir(dataDir string) string { return filepath.Join(dir(dataDir), "release") }

// sumOf is the sha256 of a file, in hexadecimal.
func sumOf(ctx context.Context, file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, reader{ctx, f}); err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// unfinished is a binary that is about to be in the place of dest.
func unfinished(dest string) string {
	return filepath.Join(filepath.Dir(dest), ".limpet-upgrade.new")
}

// sweep removes what a power cut has left of a download.
func sweep(dataDir string) {
	parts, err := filepath.Glob(filepath.Join(stagedDir(dataDir), ".limpet.part-*"))
	if err != nil || len(parts) == 0 {
		return
	}
	release, err := lock(startLock(dataDir))
	if err != nil {
		return // it is going on
	}
	defer release()
	for _, part := range parts {
		_ = os.Remove(part) // the next upgrade does, too
	}
}

// place makes dest the same as src, in one step and durably: a hard link where
// the file system has it, otherwise a copy with src's mode. With keep it gets
// owner, group and mode of what dest is now.
func place(ctx context.Context, src, dest string, keep bool) error {
	tmp := unfinished(dest)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	want, err := os.Stat(src)
	if err != nil {
		return err
	}
	if keep {
		if info, err := os.Stat(dest); err == nil {
			want = info
		}
	}
	if err := link(src, tmp, want); err != nil {
		if err := copyFile(ctx, src, tmp, want); err != nil {
			_ = os.Remove(tmp)
			return fmt.Errorf("copy %s to %s: %w", src, dest, err)
		}
	}
	if err := os.Rename(tmp, dest); err != nil {
		_ = os.Remove(tmp)
		return err
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) { // rename(2) of two links to one file leaves both
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dest))
}

var errOtherOwner = errors.New("owner or mode differ")

// link links only what has the owner and mode that are wanted: they belong to
// the file, and not to the name.
func link(src, tmp string, want fs.FileInfo) error {
	info, err := os.Stat(src)
	if err != nil {
		return err
	}
	if info.Mode() != want.Mode() || owner(info) != owner(want) {
		return errOtherOwner
	}
	return os.Link(src, tmp)
}

func owner(info fs.FileInfo) [2]int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return [2]int{int(st.Uid), int(st.Gid)}
	}
	return [2]int{}
}

func copyFile(ctx context.Context, src, dest string, want fs.FileInfo) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(dest, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, reader{ctx, in})
	uid := owner(want)
	return errors.Join(err, out.Chown(uid[0], uid[1]), out.Chmod(want.Mode().Perm()), out.Sync(), out.Close())
}

// replaceable tries whether the directory of the installed binary can be written.
func replaceable(installed string) error {
	info, err := os.Lstat(installed)
	if err != nil {
		return refusal(NotReplaceable, "", "the installed limpet cannot be found: %v", err)
	}
	if !info.Mode().IsRegular() {
		return refusal(NotReplaceable, "", "%s is no file that could be replaced (%s)", installed, info.Mode().Type())
	}
	probe, err := os.OpenFile(unfinished(installed), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return &Error{
			Code: NotReplaceable, What: "the installed " + installed + " cannot be replaced", Err: err,
			Do: "If the system is read-only, or limpet is part of an image, upgrade the image",
		}
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// free is the space that is left for root on the file system of a path, in bytes.
func free(path string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, fmt.Errorf("look at the free space of %s: %w", path, err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil //nolint:unconvert // the types differ between architectures
}

// treeSize is the size of the files of a tree, which may change meanwhile.
func treeSize(root string) int64 {
	var total int64
	_ = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				total += info.Size()
			}
		}
		return nil // an estimate
	})
	return total
}

func sameDevice(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	if errA != nil || errB != nil {
		return false
	}
	sx, okX := x.Sys().(*syscall.Stat_t)
	sy, okY := y.Sys().(*syscall.Stat_t)
	return okX && okY && sx.Dev == sy.Dev
}
