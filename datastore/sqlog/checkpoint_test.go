package sqlog

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// The WAL stays within its limits under constant load, also while readers come
// and go.
func TestWALIsBounded(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	o.WALSoftLimit, o.WALHardLimit = 64<<10, 256<<10
	l, _ := mustOpen(t, o)
	done := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for i := int64(1); ; i++ {
			select {
			case <-done:
				return
			default:
				if _, _, err := l.Record(context.Background(), ID(i%50, 0)); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	largest := int64(0)
	for i := range int64(250) {
		mustCommit(t, l, put(i+1, "/a", 2000))
		largest = max(largest, fileSize(o.Path+"-wal"))
	}
	close(done)
	readers.Wait()
	// On a busy machine a reader can keep a checkpoint from finishing in its time: it
	// is tried again when the WAL has grown by the soft limit.
	if limit := o.WALHardLimit + 3*o.WALSoftLimit; largest > limit {
		t.Errorf("the WAL grew to %d bytes, more than %d", largest, limit)
	}
	if s := l.Stats(); s.Checkpoints < 3 || s.LastError != nil {
		t.Errorf("%+v", s)
	}
}

func TestCheckpointWaitsForNoReader(t *testing.T) {
	t.Parallel()
	l, _ := mustOpen(t, testOptions(t))
	mustCommit(t, l, put(1, "/a", 100))
	if err := l.r.exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.r.int(t.Context(), "SELECT count(*) FROM log"); err != nil {
		t.Fatal(err)
	}
	mustCommit(t, l, put(2, "/a", 100))
	if err := l.Checkpoint(t.Context(), false); err != nil {
		t.Errorf("passive: %v", err)
	}
	if err := l.Checkpoint(t.Context(), true); !errors.Is(err, ErrBusy) {
		t.Errorf("truncate beside a reader: %v", err)
	}
	if err := l.r.exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := l.Checkpoint(t.Context(), true); err != nil {
		t.Error(err)
	}
	if n := l.Stats().WALBytes; n != 0 {
		t.Errorf("the WAL has %d bytes", n)
	}
}

func TestWALState(t *testing.T) {
	t.Parallel()
	s := newWALState(1000, Options{WALSoftLimit: 10 * 1024, WALHardLimit: 40 * 1024})
	step := func(name string, want due) {
		t.Helper()
		if got := s.due(); got != want {
			t.Errorf("%s: due %v, want %v (used %d, soft at %d, hard at %d)", name, got, want, s.used, s.softAt, s.hardAt)
		}
	}
	s.grew(9)
	step("below", dueNot)
	s.grew(1)
	step("soft limit", dueSoon)
	s.grew(5)
	step("while one runs", dueNot)
	if s.checkpointed(10*1024, 10, true, passive) { // five pages were added meanwhile
		t.Error("the WAL cannot start over")
	}
	s.backgroundDone()
	step("just done", dueNot)
	s.grew(10)
	step("soft limit again", dueSoon)
	if !s.checkpointed(s.used, 25, true, passive) {
		t.Error("the WAL starts over")
	}
	s.backgroundDone()
	step("empty", dueNot)
	s.grew(40)
	step("hard limit", dueNow)
	s.checkpointed(s.used, 40, false, restart)
	step("a reader is in the way", dueNot)
	s.grew(10)
	step("next try", dueNow)
	s.postpone(passive)
	step("only a passive one failed", dueNow)
	s.postpone(restart)
	step("which failed", dueNot)
	s.grew(10)
	step("one more", dueNow)
	s.checkpointed(s.used, 60, true, passive)
	step("a long WAL, copied", dueNow)
	s.checkpointed(s.used, 60, true, restart)
	s.grew(9)
	step("all is well", dueNot)
}

// A backup taken while commits go on is a consistent log.
func TestBackupWhileCommitting(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	for i := range int64(200) {
		mustCommit(t, l, put(i+1, "/a", 3000))
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	last := int64(200)
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				last++
				if err := l.Commit(context.Background(), Batch{Records: []Record{put(last, "/a", 3000)}}); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	path := filepath.Join(filepath.Dir(o.Path), "copy.db")
	for i := range 3 {
		if i > 0 {
			remove(t, path)
		}
		if err := l.Backup(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-stopped
	if err := l.Backup(t.Context(), path); !errors.Is(err, os.ErrExist) {
		t.Errorf("over an existing file: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if files := snapshotDir(t, filepath.Dir(path)); len(files) != 5 { // the copy beside the four of the log
		t.Errorf("files %v", sizes(files))
	}
	copied, st := mustOpen(t, Options{Path: path}) // checks it: it was not closed
	if !st.Bumped {
		t.Errorf("state %+v", st)
	}
	recs := loadAll(t, copied, 1<<20)
	if n := int64(len(recs)); n < 200 || n > last {
		t.Errorf("%d records", n)
	}
	for i, r := range recs {
		if want := put(int64(i)+1, "/a", 3000); !equal(r, want) {
			t.Fatalf("record %s, want %s", show(r), show(want))
		}
	}
	if mode, err := copied.w.int(t.Context(), "PRAGMA auto_vacuum"); err != nil || mode != 2 {
		t.Errorf("auto_vacuum %d, %v", mode, err)
	}
}

func TestBackupCanceled(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	l, _ := mustOpen(t, o)
	mustCommit(t, l, put(1, "/a", 10))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := o.Path + ".copy"
	if err := l.Backup(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("Backup: %v", err)
	}
	if files := snapshotDir(t, filepath.Dir(path)); len(files) != 4 {
		t.Errorf("files %v", sizes(files))
	}
}
