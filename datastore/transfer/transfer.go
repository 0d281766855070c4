package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"syscall"
	"time"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// What callers tell apart, besides fs.ErrNotExist for a source that is missing,
// sqlog.ErrNoSpace, sqlog.ErrInUse for a destination that is in use, and the
// errors of a context.
var (
	ErrExists  = errors.New("the destination exists already")
	ErrInUse   = errors.New("the source is in use")
	ErrForeign = errors.New("the source is something else")
	ErrNewer   = errors.New("the source is of a newer kind than this version knows")
	ErrDamaged = errors.New("the source is damaged")
	ErrChanged = errors.New("the source changed while it was read")
)

// Options of an import or export. The zero value is a good one.
type Options struct {
	Logger *slog.Logger // nil discards
	// Progress is called with the number of keys that are done, in long runs
	// some times per second.
	Progress func(done, total int64)
	// Replace allows the destination to exist. It is kept under another name,
	// which the report tells.
	Replace bool
	// Margin is, for imports, how many revisions are skipped: more than the
	// source can have handed out since it was read. 0 stands for
	// sqlog.DefaultMargin; a negative number makes it 1, the least there is.
	Margin int64
	// NoTrailer is for etcd snapshots without the SHA-256 at their end. Exports
	// leave it out (etcd's Snapshot RPC adds it on its way), and imports accept
	// that it is missing (in a copy of the file member/snap/db of an etcd that is
	// stopped).
	NoTrailer bool
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	switch {
	case o.Margin == 0:
		o.Margin = sqlog.DefaultMargin
	case o.Margin < 0:
		o.Margin = 0
	}
	return o
}

// Report is what was done.
type Report struct {
	Keys   int64
	Leases int64
	Bytes  int64 // of keys and values
	// SourceRevision is the revision that was read.
	SourceRevision int64
	// Revision is that of the destination.
	Revision int64
	// Dropped counts what kine keeps for itself, and keys that cannot be moved.
	Dropped int64
	// Moved counts keys that were given a newer revision, since at the
	// destination (kine) a revision is one key.
	Moved int64
	// Kept is where the former destination is; empty if there was none.
	Kept string
	// InUse says that another process had the source open: what it wrote after
	// it was read is not in the destination.
	InUse    bool
	Duration time.Duration
}

func (r Report) log(logger *slog.Logger, message, from, to string) {
	logger.Info(message, "from", from, "to", to, "keys", r.Keys, "leases", r.Leases, "bytes", r.Bytes,
		"revision", r.Revision, "kept", r.Kept, "seconds", r.Duration.Round(time.Millisecond).Seconds())
}

// explain adds what to do to errors that are not about the source.
func explain(err error, dst string) error {
	switch {
	case errors.Is(err, sqlog.ErrNoSpace), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), sqliteFull(err):
		if !errors.Is(err, sqlog.ErrNoSpace) {
			err = fmt.Errorf("%w: %w", sqlog.ErrNoSpace, err)
		}
		return fmt.Errorf("%w; %s was not changed: free space beside it and try again", err, dst)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w; run it as the user that the datastore belongs to: root", err)
	}
	return err
}
