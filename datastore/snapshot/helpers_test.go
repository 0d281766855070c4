package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// testLog is a datastore's log with some content.
type testLog struct {
	*sqlog.Log
	path string
	rev  int64
	size int // of values
}

func openLog(t *testing.T, path string) *testLog {
	t.Helper()
	log, st, err := sqlog.Open(t.Context(), sqlog.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close(context.Background()) })
	return &testLog{Log: log, path: path, rev: st.Revision, size: 600}
}

// newLog has keys 0 to n-1.
func newLog(t *testing.T, n int) *testLog {
	t.Helper()
	l := openLog(t, filepath.Join(t.TempDir(), "state.db"))
	l.put(t, 0, n)
	return l
}

// put creates the keys from to to-1, each at a revision of its own.
func (l *testLog) put(t *testing.T, from, to int) {
	t.Helper()
	var batch sqlog.Batch
	for i := from; i < to; i++ {
		l.rev++
		value := []byte(strings.Repeat(fmt.Sprintf("%d of %d ", i, l.rev), l.size/5+1)[:l.size])
		batch.Records = append(batch.Records, sqlog.Record{
			ID: sqlog.ID(l.rev, 0), Key: fmt.Sprintf("/registry/key%06d", i), CreateRevision: l.rev, Version: 1, Value: value,
		})
	}
	if err := l.Commit(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
}

func (l *testLog) keys(t *testing.T) (keys []string) {
	t.Helper()
	err := l.Load(t.Context(), 0, func(r sqlog.Record) error {
		keys = append(keys, r.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func (l *testLog) close(t *testing.T) {
	t.Helper()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func at(second int) func() time.Time {
	return func() time.Time { return time.Date(2030, 1, 2, 3, 4, second, 999, time.UTC) }
}

func mustSave(t *testing.T, source Source, dir string, o SaveOptions) Info {
	t.Helper()
	if o.Node == "" {
		o.Node = "edge-1"
	}
	info, err := Save(t.Context(), source, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func namesOf(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// assertOnly fails if there is anything in dir but the lock and these.
func assertOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	want := append([]string{lockName}, names...)
	slices.Sort(want)
	if got := namesOf(t, dir); !slices.Equal(got, want) {
		t.Errorf("%s holds\n%q, want\n%q", dir, got, want)
	}
}

func assertError(t *testing.T, err, is error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("got %q, want one that is %q", err, is)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not mention %q", err, w)
		}
	}
}

// filesOf are the contents of the files that matter beside a database.
func filesOf(t *testing.T, db string) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, n := range namesOf(t, filepath.Dir(db)) {
		if strings.HasSuffix(n, "-shm") || strings.HasSuffix(n, ".lock") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(filepath.Dir(db), n))
		if err != nil {
			t.Fatal(err)
		}
		files[n] = string(data)
	}
	return files
}

// damage changes a file in place.
func damage(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(data), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
