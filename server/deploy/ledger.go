package deploy

import (
	"slices"
	"strings"
	"sync"
	"time"
)

// State is what became of a file.
type State string

// The states of a file. Failed files are tried again as long as that can help.
const (
	Applied  State = "Applied"
	Failed   State = "Failed"
	Pruning  State = "Pruning"  // the file is gone, some of its objects are not yet
	Waiting  State = "Waiting"  // somebody is writing the file
	Skipped  State = "Skipped"  // FILE.skip exists
	Disabled State = "Disabled" // --disable
)

// FileStatus is what is known of one file.
type FileStatus struct {
	// Name is the path below the manifests directory; embedded files have
	// "embedded:" before it.
	Name     string    `json:"name"`
	Checksum string    `json:"checksum,omitempty"` // SHA-256 of the content, hex
	State    State     `json:"state"`
	Objects  int       `json:"objects"` // in the cluster because of this file
	Error    string    `json:"error,omitempty"`
	Since    time.Time `json:"since"` // of this state and error
}

// ledger remembers, while the process runs, what was tried with each file and
// when to try again. Status may be called from anywhere, the rest belongs to the
// controller's goroutine.
type ledger struct {
	now   func() time.Time
	mu    sync.Mutex
	files map[fileID]*entry
}

type entry struct {
	status   FileStatus
	revision string    // of the step that was last tried
	settled  bool      // trying it again would change nothing
	rejected bool      // the apiserver refused it
	failures int       // in a row
	retryAt  time.Time // when not settled
}

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Minute
	// writerRetry is when to look again at a file that someone is writing;
	// closing it is no event.
	writerRetry = 250 * time.Millisecond
)

// backoff is how long to wait after so many failures in a row.
func backoff(failures int) time.Duration {
	d := firstRetry
	for range failures - 1 {
		if d *= 2; d >= lastRetry {
			return lastRetry
		}
	}
	return d
}

// due reports whether a step is to be tried now. changed says that something
// happened in the directory, which may have solved what failed before.
func (l *ledger) due(s step, changed bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.files[s.id]
	return e == nil || e.revision != s.revision || !e.settled && (changed || !l.now().Before(e.retryAt))
}

// set stores an entry; it reports whether state or error are news, and what
// they were before.
func (l *ledger) set(id fileID, e entry) (before FileStatus, news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.status.Name = id.path
	if id.origin == originEmbedded {
		e.status.Name = id.String()
	}
	e.status.Since = l.now()
	if old := l.files[id]; old != nil {
		before = old.status
		if !e.settled {
			e.failures = old.failures + 1
		}
	} else if !e.settled {
		e.failures = 1
	}
	news = before.State != e.status.State || before.Error != e.status.Error
	if !news {
		e.status.Since = before.Since
	}
	switch {
	case e.settled:
	case e.status.State == Waiting:
		e.retryAt = l.now().Add(writerRetry)
	default:
		e.retryAt = l.now().Add(backoff(e.failures))
	}
	l.files[id] = &e
	return before, news
}

// keep drops the entries for which want is false.
func (l *ledger) keep(want func(fileID) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id := range l.files {
		if !want(id) {
			delete(l.files, id)
		}
	}
}

// next is the earliest time to try something again; zero: nothing fails.
func (l *ledger) next() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var next time.Time
	for _, e := range l.files {
		if !e.settled && (next.IsZero() || e.retryAt.Before(next)) {
			next = e.retryAt
		}
	}
	return next
}

// served reports whether every one of the files was applied, or refused by the
// apiserver so that waiting would not help.
func (l *ledger) served(files []file) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range files {
		if e := l.files[f.id]; e == nil || !e.settled && !e.rejected {
			return false
		}
	}
	return true
}

// statuses returns a copy, embedded files first, by name.
func (l *ledger) statuses() []FileStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make([]fileID, 0, len(l.files))
	for id := range l.files {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareIDs)
	out := make([]FileStatus, len(ids))
	for i, id := range ids {
		out[i] = l.files[id].status
	}
	return out
}

// clip shortens a message to what fits into an Event.
func clip(text string, limit int) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-3], "") + "..."
}
