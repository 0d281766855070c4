package payload

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestUnpackThenFindIt(t *testing.T) {
	t.Parallel()
	data, a := t.TempDir(), archiveOf(t, small())
	dir, err := unpack(t.Context(), a, data, quickCheck)
	if err != nil || !dir.Unpacked || dir.Damage != nil {
		t.Fatalf("first: %+v, %v", dir, err)
	}
	assertGood(t, a, data, small())
	if dir.Tool("nft") != filepath.Join(data, "data", a.sum, "bin", "nft") || dir.PauseArchive() != filepath.Join(dir.Root, "pause.tar") {
		t.Errorf("paths of %+v", dir)
	}
	again, err := unpack(t.Context(), a, data, quickCheck)
	if err != nil || again.Unpacked || again.Damage != nil || again.Root != dir.Root {
		t.Fatalf("second: %+v, %v", again, err)
	}

	// The next version comes beside it and becomes current.
	newer := append(small(), entry{name: "bin/new", mode: 0o755, data: "new"})
	b := archiveOf(t, newer)
	if _, err := unpack(t.Context(), b, data, quickCheck); err != nil {
		t.Fatal(err)
	}
	assertGood(t, b, data, newer)
	if err := quickCheck(t.Context(), dir.Root, a.manifestSum); err != nil {
		t.Errorf("the older payload was touched: %v", err)
	}
}

func TestUnpackRepairsDamage(t *testing.T) {
	t.Parallel()
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		look   check
		damage func(t *testing.T, root string)
	}{
		"truncated":        {quickCheck, func(t *testing.T, root string) { must(t, os.Truncate(root+"/bin/runc", 10)) }},
		"emptied":          {quickCheck, func(t *testing.T, root string) { must(t, os.Truncate(root+"/bin/runc", 0)) }},
		"removed":          {quickCheck, func(t *testing.T, root string) { must(t, os.Remove(root+"/lib/deep/er/libc.so")) }},
		"not executable":   {quickCheck, func(t *testing.T, root string) { must(t, os.Chmod(root+"/bin/nft", 0o644)) }},
		"set-uid":          {quickCheck, func(t *testing.T, root string) { must(t, os.Chmod(root+"/bin/nft", 0o755|os.ModeSetuid)) }},
		"no manifest":      {quickCheck, func(t *testing.T, root string) { must(t, os.Remove(root+"/MANIFEST")) }},
		"manifest changed": {quickCheck, func(t *testing.T, root string) { must(t, os.WriteFile(root+"/MANIFEST", []byte("x\n"), 0o644)) }},
		"manifest emptied": {quickCheck, func(t *testing.T, root string) { must(t, os.Truncate(root+"/MANIFEST", 0)) }},
		"a link instead": {quickCheck, func(t *testing.T, root string) {
			must(t, os.Remove(root+"/bin/nft"))
			must(t, os.Symlink("runc", root+"/bin/nft"))
		}},
		"an empty root":     {quickCheck, func(t *testing.T, root string) { must(t, os.RemoveAll(root)); must(t, os.Mkdir(root, 0o755)) }},
		"a file as root":    {quickCheck, func(t *testing.T, root string) { must(t, os.RemoveAll(root)); must(t, os.WriteFile(root, nil, 0o644)) }},
		"a flipped bit":     {fullCheck, func(t *testing.T, root string) { must(t, os.WriteFile(root+"/pause.tar", []byte("imagf"), 0o644)) }},
		"truncated (full)":  {fullCheck, func(t *testing.T, root string) { must(t, os.Truncate(root+"/bin/runc", 10)) }},
		"interrupted write": {quickCheck, func(t *testing.T, root string) { must(t, os.Rename(root, filepath.Dir(root)+"/"+stagingName)) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, a := t.TempDir(), archiveOf(t, small())
			dir, err := unpack(t.Context(), a, data, quickCheck)
			must(t, err)
			c.damage(t, dir.Root)
			again, err := unpack(t.Context(), a, data, c.look)
			if err != nil || !again.Unpacked || (again.Damage == nil) != (name == "interrupted write") {
				t.Errorf("%+v, %v", again, err)
			}
			assertGood(t, a, data, small())
		})
	}
}

// A flipped bit costs the quick check nothing, and that is known: it is Repair's work.
func TestQuickCheckDoesNotReadFiles(t *testing.T) {
	t.Parallel()
	data, a := t.TempDir(), archiveOf(t, small())
	dir, err := unpack(t.Context(), a, data, quickCheck)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir.PauseArchive(), []byte("imagf"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := quickCheck(t.Context(), dir.Root, a.manifestSum); err != nil {
		t.Error(err)
	}
	if err := fullCheck(t.Context(), dir.Root, a.manifestSum); err == nil {
		t.Error("the full check did not find a flipped bit")
	}
}

func TestConcurrentUnpackHappensOnce(t *testing.T) {
	t.Parallel()
	data, a := t.TempDir(), archiveOf(t, small())
	var wg sync.WaitGroup
	unpacked := make(chan bool, 8)
	for range cap(unpacked) {
		wg.Go(func() {
			dir, err := unpack(t.Context(), a, data, quickCheck)
			if err != nil {
				t.Error(err)
			}
			unpacked <- dir.Unpacked
		})
	}
	wg.Wait()
	close(unpacked)
	n := 0
	for did := range unpacked {
		if did {
			n++
		}
	}
	if n != 1 {
		t.Errorf("unpacked %d times", n)
	}
	assertGood(t, a, data, small())
}

func TestUnpackLeavesNothingOfABadArchive(t *testing.T) {
	t.Parallel()
	data, a := t.TempDir(), archiveOf(t, small())
	if _, err := unpack(t.Context(), a, data, quickCheck); err != nil {
		t.Fatal(err)
	}
	files := small()
	m := manifestOf(files)
	files[2].data = "damaged" // found after two files are written
	bad := packed(t, append([]entry{{name: manifestName, mode: 0o644, data: m}}, files...), m)
	if _, err := unpack(t.Context(), bad, data, quickCheck); err == nil {
		t.Fatal("no error")
	}
	assertGood(t, a, data, small()) // the one before is still there, and current
	if _, err := os.Lstat(filepath.Join(data, storeName, bad.sum)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a payload is in place: %v", err)
	}
}

func TestUnpackStopsWithItsContext(t *testing.T) {
	t.Parallel()
	data, a := t.TempDir(), archiveOf(t, small())
	store := filepath.Join(data, storeName)
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	unlock, err := lock(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := unpack(ctx, a, data, quickCheck); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while another process holds the lock: %v", err)
	}
	unlock()
	if _, err := unpack(ctx, a, data, quickCheck); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a context that is done: %v", err)
	}
	if _, err := unpack(t.Context(), a, data, quickCheck); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	assertGood(t, a, data, small())
}

func TestUnpackWithoutRenameFlags(t *testing.T) {
	t.Parallel()
	for name, exists := range map[string]bool{"new": false, "replaced": true} {
		store := t.TempDir()
		staging, root := filepath.Join(store, stagingName), filepath.Join(store, "root")
		if err := os.Mkdir(staging, 0o755); err != nil {
			t.Fatal(err)
		}
		if exists {
			if err := os.MkdirAll(filepath.Join(root, "old"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := renameOver(staging, root); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		entries, err := os.ReadDir(store)
		if err != nil || len(entries) != 1 || entries[0].Name() != "root" {
			t.Errorf("%s: %v, %v", name, entries, err)
		}
		if left, err := os.ReadDir(root); err != nil || len(left) != 0 {
			t.Errorf("%s: old content in the new directory: %v, %v", name, left, err)
		}
	}
}

func TestDiskBytesCountsWholeBlocks(t *testing.T) {
	t.Parallel()
	m := manifest{files: []manifestFile{{size: 1}, {size: 4096}, {size: 4097}, {size: 0}}}
	if got, want := diskBytes(m, 100, 4096), int64(4096*(2+2+3+1+2)); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
	e := &NoSpaceError{Dir: "/d", Need: 30, Free: 10}
	if !errors.Is(e, unix.ENOSPC) {
		t.Error("NoSpaceError is not ENOSPC")
	}
}
