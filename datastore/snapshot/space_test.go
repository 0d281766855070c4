package snapshot

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/limpetio/limpet/datastore/sqlog"
	"github.com/limpetio/limpet/internal/testenv"
)

// plain hides how large the source is.
type plain struct{ *testLog }

func (p plain) Backup(ctx context.Context, path string) error { return p.Log.Backup(ctx, path) }
func (plain) Stats()                                          {}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := testenv.SmallDisk(t, 2<<20)
	small := newLog(t, 10)
	before := mustSave(t, plain{small}, dir, SaveOptions{})
	large := newLog(t, 5000)
	for name, source := range map[string]Source{"found out early": large, "found out late": plain{large}} {
		_, err := Save(t.Context(), source, dir, SaveOptions{Node: "n"})
		assertError(t, err, sqlog.ErrNoSpace, dir)
		if early := strings.Contains(err.Error(), "are needed"); early != (name == "found out early") {
			t.Errorf("%s: %v", name, err)
		}
		assertOnly(t, dir, before.Name)
	}
	// What is compressed does not fit.
	source := brokenSource(func(ctx context.Context, path string) error {
		if err := small.Backup(ctx, path); err != nil {
			return err
		}
		fill(t, dir)
		return nil
	})
	_, err := Save(t.Context(), source, dir, SaveOptions{Node: "n"})
	assertError(t, err, sqlog.ErrNoSpace)
	if err := os.Remove(filepath.Join(dir, "fill")); err != nil {
		t.Fatal(err)
	}
	assertOnly(t, dir, before.Name)
	if _, err := Verify(t.Context(), before.Path, ""); err != nil {
		t.Error(err)
	}
}

func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(bytes.Repeat([]byte("x"), 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func TestRestoreToAFullDisk(t *testing.T) {
	t.Parallel()
	disk := testenv.SmallDisk(t, 1<<20)
	db := filepath.Join(disk, "state.db")
	log := openLog(t, db)
	log.put(t, 0, 10)
	log.close(t)
	info := mustSave(t, newLog(t, 3000), t.TempDir(), SaveOptions{})
	_, err := Restore(t.Context(), info.Path, db, RestoreOptions{})
	assertError(t, err, sqlog.ErrNoSpace, "are needed")
	if got := openLog(t, db); len(got.keys(t)) != 10 {
		t.Error("the database has changed")
	}
	_, err = Verify(t.Context(), info.Path, disk)
	assertError(t, err, sqlog.ErrNoSpace)
}

func TestReadOnlyDirectory(t *testing.T) {
	t.Parallel()
	dir, log := testenv.SmallDisk(t, 2<<20), newLog(t, 10)
	info := mustSave(t, plain{log}, dir, SaveOptions{})
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, err := Save(t.Context(), log, dir, SaveOptions{})
	assertError(t, err, syscall.EROFS, dir)
	assertError(t, Delete(t.Context(), dir, info.Name), syscall.EROFS)
	if _, err := Verify(t.Context(), info.Path, ""); err != nil {
		t.Error(err)
	}
	if _, err := Restore(t.Context(), info.Path, filepath.Join(t.TempDir(), "state.db"), RestoreOptions{}); err != nil {
		t.Error(err)
	}
}
