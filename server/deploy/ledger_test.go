package deploy

import (
	"strings"
	"testing"
	"time"
)

func TestBackoff(t *testing.T) {
	t.Parallel()
	var total time.Duration
	for n := 1; n <= 60; n++ {
		d := backoff(n)
		if n > 1 && d < backoff(n-1) || d < firstRetry || d > lastRetry {
			t.Errorf("backoff(%d) = %v", n, d)
		}
		if n <= 4 {
			total += d
		}
	}
	if total > 2*time.Second {
		t.Errorf("four tries take %v: too slow for a kind that is about to be served", total)
	}
	if backoff(60) != lastRetry {
		t.Errorf("backoff(60) = %v", backoff(60))
	}
}

func TestLedger(t *testing.T) {
	t.Parallel()
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	l := &ledger{now: func() time.Time { return now }, files: make(map[fileID]*entry)}
	id := inDir("a.yaml")
	s := step{id: id, revision: "1"}
	check := func(what string, changed, want bool) {
		t.Helper()
		if got := l.due(s, changed); got != want {
			t.Errorf("%s: due = %v, want %v", what, got, want)
		}
	}
	failing := func(text string) (FileStatus, bool) {
		return l.set(id, entry{revision: "1", status: FileStatus{State: Failed, Error: text}})
	}
	check("never tried", false, true)

	if _, news := failing("x"); !news {
		t.Error("the first failure is no news")
	}
	since := l.statuses()[0].Since
	check("failed just now", false, false)
	check("failed just now, and something changed", true, true)
	if l.next() != now.Add(firstRetry) {
		t.Errorf("next try at %v", l.next())
	}
	now = now.Add(firstRetry)
	check("its time has come", false, true)
	if _, news := failing("x"); news {
		t.Error("the same failure is news")
	}
	if got := l.statuses()[0].Since; got != since {
		t.Errorf("since %v, want %v", got, since)
	}
	if l.next() != now.Add(2*firstRetry) {
		t.Errorf("no back-off: next try at %v", l.next())
	}
	if before, news := failing("y"); !news || before.Error != "x" {
		t.Errorf("another error: news %v, before %+v", news, before)
	}

	l.set(id, entry{revision: "1", settled: true, status: FileStatus{State: Applied}})
	check("applied", false, false)
	check("applied, and another file changed", true, false)
	if !l.next().IsZero() {
		t.Errorf("a timer runs although nothing fails: %v", l.next())
	}
	s.revision = "2"
	check("changed", false, true)
	l.keep(func(fileID) bool { return false })
	if len(l.statuses()) != 0 {
		t.Errorf("kept %v", l.statuses())
	}
}

func TestLedgerServed(t *testing.T) {
	t.Parallel()
	l := &ledger{now: time.Now, files: make(map[fileID]*entry)}
	files := []file{{id: packaged("a.yaml")}, {id: packaged("b.yaml")}}
	l.set(files[0].id, entry{settled: true})
	if l.served(files) {
		t.Error("served although one was never tried")
	}
	l.set(files[1].id, entry{})
	if l.served(files) {
		t.Error("served although one failed on the way")
	}
	l.set(files[1].id, entry{rejected: true})
	if !l.served(files) {
		t.Error("a refused file holds the others up")
	}
}

func TestClip(t *testing.T) {
	t.Parallel()
	if got := clip("a\n  b\tc", 100); got != "a b c" {
		t.Errorf("got %q", got)
	}
	if got := clip(strings.Repeat("é", 100), 20); len(got) > 20 || !strings.HasSuffix(got, "é...") {
		t.Errorf("got %q", got)
	}
}
