package sqlog

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestUncleanStartSkipsRevisions(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	mustCommit(t, l, history()...)
	o = Options{Path: copyCrashed(t, o.Path), Margin: 5000}
	rev := int64(900)
	for range 3 { // each crash again, with nothing written in between
		l, st := mustOpen(t, o)
		rev += 5000
		if want := (State{Bumped: true, Revision: rev, Compacted: rev, Schema: 1}); st != want {
			t.Fatalf("state %+v, want %+v", st, want)
		}
		assertRecords(t, loadAll(t, l, 1<<20), history())
		o.Path = copyCrashed(t, o.Path) // as durable as anything: nothing was closed
	}
	l, _ = mustOpen(t, o)
	mustCommit(t, l, put(rev+5001, "/new", 1))
	mustClose(t, l)
	_, st := mustOpen(t, o)
	if want := (State{Clean: true, Revision: rev + 5001, Compacted: rev + 5000, Schema: 1}); st != want {
		t.Errorf("closed after a crash: %+v, want %+v", st, want)
	}
}

// The revision must not go back when its row is gone: a swept tombstone may
// have been the last row.
func TestRevisionSurvivesItsRow(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	mustCommit(t, l, put(5, "/a", 1), Record{ID: ID(6, 0), Prev: ID(5, 0), Key: "/a"})
	edit(t, o.Path, "UPDATE meta SET value = 7 WHERE name = 'revision'") // a restart has skipped one
	mustClose(t, l)
	l, _ = mustOpen(t, o)
	if err := l.Commit(t.Context(), Batch{Compacted: 7}); err != nil {
		t.Fatal(err)
	}
	if more, err := l.Sweep(t.Context(), 100); err != nil || more {
		t.Fatal(more, err)
	}
	assertRecords(t, loadAll(t, l, 10), nil)
	mustClose(t, l)
	if _, st := mustOpen(t, o); st.Revision != 7 || st.Compacted != 7 {
		t.Errorf("state %+v", st)
	}
}

func TestFailedLogIsNotMarkedClean(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	mustCommit(t, l, put(1, "/a", 1))
	l.noteFailure(ErrCorrupt)
	if err := l.Close(t.Context()); !errors.Is(err, ErrCorrupt) {
		t.Errorf("Close returned %v", err)
	}
	if _, st := mustOpen(t, o); st.Clean || !st.Bumped {
		t.Errorf("state %+v", st)
	}
}

// What Open refuses stays as it is, to the byte, and no file appears beside it
// but the lock.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, path string) // path is a closed log with a row
		want    error
		text    string
	}{
		{"newer schema", func(t *testing.T, path string) { edit(t, path, "PRAGMA user_version=2") }, ErrSchema, "schema 2"},
		{"unknown schema", func(t *testing.T, path string) { edit(t, path, "PRAGMA user_version=0") }, ErrSchema, ""},
		{"kine", func(t *testing.T, path string) {
			remove(t, path)
			edit(t, path, "CREATE TABLE kine(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)", "PRAGMA journal_mode=wal", "INSERT INTO kine(name) VALUES('/a')")
		}, ErrForeign, "kine"},
		{"another program's", func(t *testing.T, path string) { edit(t, path, "PRAGMA application_id=1") }, ErrForeign, "0x1"},
		{"no database", func(t *testing.T, path string) { write(t, path, strings.Repeat("hello\n", 1000)) }, ErrCorrupt, "not a database"},
		{"tiny", func(t *testing.T, path string) { write(t, path, "x") }, ErrCorrupt, ""},
		{"empty", func(t *testing.T, path string) { write(t, path, "") }, ErrCorrupt, "empty"},
		{"lost beside its WAL", func(t *testing.T, path string) { remove(t, path); write(t, path+"-wal", "frames") }, ErrCorrupt, "missing"},
		{"truncated", func(t *testing.T, path string) { truncateFile(t, path, 0.6) }, ErrCorrupt, ""},
		{"truncated in a page", func(t *testing.T, path string) { truncateFile(t, path, 0.55) }, ErrCorrupt, ""},
		{"a table is missing", func(t *testing.T, path string) { edit(t, path, "DROP TABLE lease") }, ErrCorrupt, "missing"},
		{"a number is missing", func(t *testing.T, path string) { edit(t, path, "DELETE FROM meta WHERE name='swept'") }, ErrCorrupt, "swept"},
		{"a number is none", func(t *testing.T, path string) { edit(t, path, "UPDATE meta SET value='x' WHERE name='compacted'") }, ErrCorrupt, "compacted"},
		{"swept too far", func(t *testing.T, path string) { edit(t, path, "UPDATE meta SET value=1<<40 WHERE name='swept'") }, ErrCorrupt, "swept"},
		{"revisions used up", func(t *testing.T, path string) {
			edit(t, path, "UPDATE meta SET value=(1<<43)-5 WHERE name='revision'", "UPDATE meta SET value=0 WHERE name='clean'")
		}, nil, "used up"},
		{"a directory", func(t *testing.T, path string) { remove(t, path); mkdir(t, path) }, nil, "not a regular file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := testOptions(t)
			l, _ := mustOpen(t, o)
			mustCommit(t, l, put(1, "/a", 10), put(2, "/b", 9000))
			mustClose(t, l)
			c.prepare(t, o.Path)
			if c.text == "not a regular file" {
				_, _, err := Open(t.Context(), o)
				if err == nil || !strings.Contains(err.Error(), c.text) {
					t.Errorf("Open: %v", err)
				}
				return
			}
			before := snapshotDir(t, filepath.Dir(o.Path))
			for range 2 {
				_, _, err := Open(t.Context(), o)
				if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), o.Path) {
					t.Errorf("Open returned %v, want %v with %q", err, c.want, c.text)
				}
			}
			if after := snapshotDir(t, filepath.Dir(o.Path)); !maps.Equal(before, after) {
				t.Errorf("Open changed files: %v, then %v", sizes(before), sizes(after))
			}
		})
	}
}

func TestOpenNeedsDirectory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "missing", "state.db")
	if _, _, err := Open(t.Context(), Options{Path: path}); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("Open: %v", err)
	}
}

// A creation that was cut off leaves a file of another name.
func TestCreationIsRepeated(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.Path += " with ? and # and %41"
	write(t, o.Path+".new", "half")
	write(t, o.Path+".new-journal", "half")
	l, st := mustOpen(t, o)
	mustCommit(t, l, put(1, "/a", 1))
	mustClose(t, l)
	if st.Revision != 0 || !st.Clean {
		t.Errorf("state %+v", st)
	}
	if files := snapshotDir(t, filepath.Dir(o.Path)); len(files) != 2 {
		t.Errorf("files %v", sizes(files))
	}
}

const childPath = "SQLOG_TEST_LOCK"

func TestInUseByAnotherProcess(t *testing.T) {
	t.Parallel()
	if path := os.Getenv(childPath); path != "" { // the other process
		_, _, err := Open(t.Context(), Options{Path: path})
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getppid())) {
			t.Fatalf("Open: %v", err)
		}
		return
	}
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	mustCommit(t, l, put(1, "/a", 1))
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestInUseByAnotherProcess$")
	child.Env = append(os.Environ(), childPath+"="+o.Path)
	if out, err := child.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if _, _, err := Open(t.Context(), o); !errors.Is(err, ErrInUse) {
		t.Errorf("a second Open in the same process: %v", err)
	}
	mustCommit(t, l, put(2, "/a", 1))
	mustClose(t, l)
	mustOpen(t, o)
}

func write(t testing.TB, path, data string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func truncateFile(t testing.TB, path string, share float64) {
	t.Helper()
	if err := os.Truncate(path, int64(float64(fileSize(path))*share)); err != nil {
		t.Fatal(err)
	}
}

func sizes(files map[string]string) map[string]int {
	m := map[string]int{}
	for name, data := range files {
		m[name] = len(data)
	}
	return m
}
