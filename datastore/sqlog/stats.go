package sqlog

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
)

// Stats are for status reports and metrics.
type Stats struct {
	Commits     int64 // since Open
	Checkpoints int64 // since Open
	Rows        int64 // in the log; known once Load has run
	FileBytes   int64 // size of the database
	WALBytes    int64 // size of the WAL's file: it is overwritten, not shortened
	FreePages   int64 // pages of the database that wait to be used again
	PageSize    int64
	LastError   error // nil if nothing failed so far
}

type counters struct {
	commits, checkpoints, rows atomic.Int64

	mu  sync.Mutex
	err error
}

func (c *counters) failed(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *counters) last() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Stats returns the present figures. It costs a small read.
func (l *Log) Stats() Stats {
	s := Stats{
		Commits:     l.stats.commits.Load(),
		Checkpoints: l.stats.checkpoints.Load(),
		Rows:        l.stats.rows.Load(),
		FileBytes:   fileSize(l.opts.Path),
		WALBytes:    fileSize(l.opts.Path + "-wal"),
		PageSize:    l.wal.page(),
	}
	// A failure here is LastError, as with any read.
	_ = l.read(context.Background(), "stat", func(ctx context.Context, r *reader) error {
		return r.free.QueryRowContext(ctx).Scan(&s.FreePages)
	})
	s.LastError = l.stats.last()
	return s
}

// fileSize does not open the file: see "Connections" in the package comment.
func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
