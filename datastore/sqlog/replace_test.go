package sqlog

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// replacing is a crashed database with a WAL, and a complete one that is going
// to replace it, which has key "new" at revision 7.
func replacing(t *testing.T) (path string) {
	t.Helper()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	mustCommit(t, l, put(1, "old", 10), put(2, "older", 10))
	path = filepath.Join(t.TempDir(), "state.db")
	for _, part := range []string{"", "-wal", "-shm"} {
		copyFile(t, path+part, o.Path+part)
	}
	next := testOptions(t)
	n, _ := mustOpen(t, next)
	mustCommit(t, n, put(7, "new", 10))
	if err := n.Backup(t.Context(), Incoming(path)); err != nil {
		t.Fatal(err)
	}
	return path
}

func keysOf(t *testing.T, path string) (keys []string) {
	t.Helper()
	l, _ := mustOpen(t, Options{Path: path})
	defer mustClose(t, l)
	for _, r := range loadAll(t, l, 0) {
		keys = append(keys, r.Key)
	}
	return keys
}

// TestUnlockReleasesCopies: a process that is being started elsewhere in the
// program has copies of all descriptors until it executes its program.
func TestUnlockReleasesCopies(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	release, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	copies := 0
	for _, fd := range fds {
		n, _ := strconv.Atoi(fd.Name())
		if to, _ := os.Readlink("/proc/self/fd/" + fd.Name()); to != path+".lock" {
			continue
		}
		dup, err := syscall.Dup(n)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Close(dup) }()
		copies++
	}
	if copies == 0 {
		t.Fatal("the lock's descriptor was not found")
	}
	release()
	if release, err = Lock(path); err != nil {
		t.Fatal(err)
	}
	release()
}

func TestReplace(t *testing.T) {
	t.Parallel()
	path := replacing(t)
	if err := MarkRestored(t.Context(), Incoming(path), 5000); err != nil {
		t.Fatal(err)
	}
	aside, err := Replace(path, time.Unix(1e9, 0))
	if err != nil || aside != path+".aside-20010909T014640Z" {
		t.Fatal(aside, err)
	}
	l, st := mustOpen(t, Options{Path: path, Margin: 10})
	if st.Clean || !st.Bumped || st.Revision != 5010 || st.Compacted != 5010 {
		t.Errorf("unexpected %+v", st)
	}
	mustClose(t, l)
	if got := keysOf(t, path); !slices.Equal(got, []string{"new"}) {
		t.Errorf("keys %q", got)
	}
	if got := keysOf(t, aside); !slices.Equal(got, []string{"old", "older"}) {
		t.Errorf("keys aside %q", got)
	}
}

// Whatever had been done when the power failed, the next Open finds the new
// database complete, and the old one complete beside it; or, before the
// incoming one got its name, the old one.
func TestReplaceIsCutOff(t *testing.T) {
	t.Parallel()
	const stamp = "20300102T030405Z"
	for done := range 6 {
		path := replacing(t)
		if done == 0 { // half of it is there
			if err := os.Truncate(Incoming(path), 5000); err != nil {
				t.Fatal(err)
			}
		} else if err := os.Rename(Incoming(path), path+pendingInfix+stamp); err != nil {
			t.Fatal(err)
		}
		for _, part := range parts()[:max(0, done-1)] {
			if err := os.Rename(path+part, path+asideInfix+stamp+part); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		want := []string{"new"}
		if done == 0 {
			want = []string{"old", "older"}
		} else if _, err := os.Stat(path + pendingInfix + stamp); err != nil {
			t.Fatal(err)
		}
		if got := keysOf(t, path); !slices.Equal(got, want) {
			t.Errorf("after %d steps: keys %q, want %q", done, got, want)
		}
		left, err := os.ReadDir(filepath.Dir(path))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			if strings.Contains(e.Name(), pendingInfix) || strings.Contains(e.Name(), incomingSuffix) {
				t.Errorf("after %d steps: %s is left", done, e.Name())
			}
		}
		if done > 0 {
			if got := keysOf(t, path+asideInfix+stamp); !slices.Equal(got, []string{"old", "older"}) {
				t.Errorf("after %d steps: keys aside %q", done, got)
			}
		}
	}
}

func TestLockIsExclusive(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	unlock, err := Lock(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(t.Context(), o); !errors.Is(err, ErrInUse) {
		t.Errorf("Open with the lock held: %v", err)
	}
	unlock()
	mustOpen(t, o)
	if _, err := Lock(o.Path); !errors.Is(err, ErrInUse) {
		t.Errorf("Lock of an open log: %v", err)
	}
}

func TestPruneAside(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state.db")
	for _, n := range []string{"1", "2", "3", "4"} {
		for _, part := range []string{"", "-wal", "-shm"} {
			if err := os.WriteFile(path+asideInfix+"2030010"+n+"T000000Z"+part, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(path+asideInfix+"of-somebody", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	aside := func(n string) string { return path + asideInfix + "2030010" + n + "T000000Z" }
	removed, err := PruneAside(path, 2, aside("1")) // the clock was set back
	if err != nil || !slices.Equal(removed, []string{aside("2"), aside("3")}) {
		t.Errorf("removed %q, %v", removed, err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 7 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestVerifyAndPeekChangeNothing(t *testing.T) {
	t.Parallel()
	path := replacing(t)
	before, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		c, err := Verify(t.Context(), path)
		if err != nil || c.Revision != 2 || c.Keys != 2 || c.Created == 0 {
			t.Errorf("Verify: %+v, %v", c, err)
		}
		c, err = Peek(t.Context(), Incoming(path))
		if err != nil || c.Revision != 7 || c.Keys != 0 {
			t.Errorf("Peek: %+v, %v", c, err)
		}
	}
	after, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(after) != len(before) {
		t.Errorf("%v, then %v, %v", before, after, err)
	}
}
