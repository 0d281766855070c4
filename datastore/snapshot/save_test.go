package snapshot

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/limpetio/limpet/datastore/sqlog"
)

func TestSave(t *testing.T) {
	t.Parallel()
	log := newLog(t, 300)
	dir := filepath.Join(t.TempDir(), "new", "snapshots")
	info := mustSave(t, log, dir, SaveOptions{Now: at(5), Reason: Upgrade})

	if want := "limpet-edge-1-20300102T030405Z-300.db.zst"; info.Name != want {
		t.Errorf("name %s, want %s", info.Name, want)
	}
	if info.Keys != 300 || info.Revision != 300 || info.Reason != Upgrade || info.Node != "edge-1" || info.Database == 0 ||
		info.Size == 0 || info.Bytes == 0 || info.Bytes > info.Size/2 || info.Limpet == "" || info.Damage != "" {
		t.Errorf("unexpected %+v", info)
	}
	stat, err := os.Stat(info.Path)
	if err != nil || stat.Mode() != 0o600 {
		t.Errorf("%v, %v", stat.Mode(), err)
	}
	if stat, err := os.Stat(dir); err != nil || stat.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", stat.Mode(), err)
	}
	list, err := List(dir)
	if err != nil || len(list) != 1 || list[0] != info {
		t.Errorf("List: %+v, %v; want %+v", list, err, info)
	}
	if got, err := Verify(t.Context(), info.Path, ""); err != nil || got != info {
		t.Errorf("Verify: %+v, %v", got, err)
	}
	assertOnly(t, dir, info.Name)
}

// The database can be had without limpet.
func TestStandardToolsUnpack(t *testing.T) {
	t.Parallel()
	info := mustSave(t, newLog(t, 10), t.TempDir(), SaveOptions{})
	data, err := os.ReadFile(info.Path)
	if err != nil {
		t.Fatal(err)
	}
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	db, err := dec.DecodeAll(data, nil)
	if err != nil || !bytes.HasPrefix(db, []byte("SQLite format 3\x00")) || int64(len(db)) != info.Size {
		t.Fatalf("%d bytes, %v", len(db), err)
	}
	if tool, err := exec.LookPath("zstd"); err == nil {
		out, err := exec.CommandContext(t.Context(), tool, "-dc", info.Path).Output()
		if err != nil || !bytes.Equal(out, db) {
			t.Errorf("zstd -dc: %d bytes, %v", len(out), err)
		}
	}
}

func TestSuperfluousRecordsAreNoKeys(t *testing.T) {
	t.Parallel()
	log := newLog(t, 3)
	err := log.Commit(t.Context(), sqlog.Batch{Records: []sqlog.Record{
		{ID: sqlog.ID(4, 0), Prev: sqlog.ID(1, 0), Key: "/registry/key000000", CreateRevision: 1, Version: 2, Value: []byte("new")},
		{ID: sqlog.ID(5, 0), Prev: sqlog.ID(2, 0), Key: "/registry/key000001"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if info := mustSave(t, log, t.TempDir(), SaveOptions{}); info.Keys != 2 || info.Revision != 5 {
		t.Errorf("%d keys at %d", info.Keys, info.Revision)
	}
}

func TestSavesAtOnce(t *testing.T) {
	t.Parallel()
	log, dir := newLog(t, 20), t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := Save(t.Context(), log, dir, SaveOptions{Node: "n", Now: at(0)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	assertOnly(t, dir, "limpet-n-20300102T030400Z-20.db.zst", "limpet-n-20300102T030400Z-20-1.db.zst",
		"limpet-n-20300102T030400Z-20-2.db.zst", "limpet-n-20300102T030400Z-20-3.db.zst")
	list, err := List(dir)
	if err != nil || len(list) != 4 || list[0].Name != "limpet-n-20300102T030400Z-20-3.db.zst" {
		t.Errorf("newest is %v, %v", list, err)
	}
	for _, i := range list {
		if _, err := Verify(t.Context(), i.Path, ""); err != nil {
			t.Error(err)
		}
	}
}

// brokenSource makes something else than a good copy.
type brokenSource func(ctx context.Context, path string) error

func (b brokenSource) Backup(ctx context.Context, path string) error { return b(ctx, path) }

func TestSaveFailureLeavesNothing(t *testing.T) {
	t.Parallel()
	log := newLog(t, 500)
	oops := errors.New("oops")
	for name, tc := range map[string]struct {
		source brokenSource
		is     error
	}{
		"backup fails": {func(_ context.Context, path string) error {
			return errors.Join(os.WriteFile(path, []byte("half"), 0o600), oops)
		}, oops},
		"not a database": {func(_ context.Context, path string) error {
			return os.WriteFile(path, bytes.Repeat([]byte("x"), 8192), 0o600)
		}, sqlog.ErrCorrupt},
		"damaged copy": {func(ctx context.Context, path string) error {
			err := log.Backup(ctx, path)
			damage(t, path, func(b []byte) []byte { clear(b[8192:12288]); return b })
			return err
		}, sqlog.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			before := mustSave(t, log, dir, SaveOptions{})
			_, err := Save(t.Context(), tc.source, dir, SaveOptions{Node: "n"})
			assertError(t, err, tc.is, dir)
			assertOnly(t, dir, before.Name)
		})
	}
}

func TestCancelledSave(t *testing.T) {
	t.Parallel()
	log, dir := newLog(t, 100), t.TempDir()
	for _, when := range []string{"before", "after the backup"} {
		ctx, cancel := context.WithCancel(t.Context())
		source := brokenSource(func(ctx context.Context, path string) error {
			err := log.Backup(ctx, path)
			cancel()
			return err
		})
		if when == "before" {
			cancel()
		}
		_, err := Save(ctx, source, dir, SaveOptions{Node: "n"})
		assertError(t, err, context.Canceled)
		assertOnly(t, dir)
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, tempPrefix+"123", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, tempPrefix+"123", "db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	info := mustSave(t, newLog(t, 1), dir, SaveOptions{})
	assertOnly(t, dir, info.Name)
}

func TestSaveWaitsForTheLock(t *testing.T) {
	t.Parallel()
	log, dir := newLog(t, 1), t.TempDir()
	unlock, err := lockDir(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	_, err = Save(ctx, log, dir, SaveOptions{})
	assertError(t, err, context.DeadlineExceeded, "somebody else works with it")
	unlock()
	mustSave(t, log, dir, SaveOptions{})
}

func TestDelete(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "snapshots")
	info := mustSave(t, newLog(t, 1), dir, SaveOptions{})
	outside := filepath.Join(root, info.Name)
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "../" + info.Name, "./" + info.Name, outside, info.Path, ".lock", info.Name + "/",
		info.Name + "\x00", strings.Replace(info.Name, "edge", "ed/ge", 1), strings.Replace(info.Name, "edge", "..", 1)} {
		assertError(t, Delete(t.Context(), dir, name), nil, "is not the name of a snapshot")
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
	if err := Delete(t.Context(), dir, info.Name); err != nil {
		t.Error(err)
	}
	assertOnly(t, dir)
	assertError(t, Delete(t.Context(), dir, info.Name), os.ErrNotExist, info.Name)
}

func TestListOfNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if list, err := List(filepath.Join(dir, "missing")); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
	for _, n := range []string{"state.db", "limpet-x.db.zst", "limpet-n-20301302T030400Z-20.db.zst"} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := List(dir); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	dir, log := t.TempDir(), newLog(t, 1)
	manual := mustSave(t, log, dir, SaveOptions{Now: at(0), Reason: Manual})
	other := mustSave(t, log, dir, SaveOptions{Now: at(0), Reason: Scheduled, Node: "edge-2"})
	var saved []string
	for i := range 5 {
		log.put(t, i+1, i+2)
		saved = append(saved, mustSave(t, log, dir, SaveOptions{Now: at(30 - i), Reason: Scheduled}).Name) // the clock runs backward
	}
	// A datastore that was started anew, with low revisions.
	anew := openLog(t, filepath.Join(t.TempDir(), "state.db"))
	setCreated(t, anew)
	anew = openLog(t, anew.path)
	fresh := mustSave(t, anew, dir, SaveOptions{Now: at(40), Reason: Scheduled})

	deleted, err := Prune(t.Context(), dir, Ring{Node: "edge-1", Reason: Scheduled, Keep: 2})
	if err != nil || !slices.Equal(deleted, saved[:3]) {
		t.Errorf("deleted %q, %v; want %q", deleted, err, saved[:3])
	}
	assertOnly(t, dir, manual.Name, other.Name, saved[3], saved[4], fresh.Name)
	if deleted, err = Prune(t.Context(), dir, Ring{Node: "edge-1", Reason: Scheduled}); err != nil || len(deleted) > 0 {
		t.Errorf("without a limit: %q, %v", deleted, err)
	}
}
