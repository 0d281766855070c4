package snapshot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
)

// ErrUpload is the cause when a snapshot was saved, but not uploaded.
var ErrUpload = errors.New("the snapshot is saved, but not in the bucket")

// SchedulerOptions of a Scheduler.
type SchedulerOptions struct {
	Source Source
	Dir    string
	Node   string
	Timing Timing
	// Retention is how many scheduled snapshots are kept, in Dir and in the
	// bucket: DefaultRetention if 0, all if negative.
	Retention int
	Bucket    *Bucket // nil without one
	// Revision is the revision of the source; nil if nobody knows. It spares
	// snapshots of a datastore in which nothing has changed since the last one.
	//
	// A running cluster renews leases all the time, even if it is idle, so this
	// is about a server whose apiserver does not run or has no nodes. To look
	// whether it was more than leases would save some flash and leave a
	// snapshot's age without a meaning: time decides.
	Revision func() int64
	Logger   *slog.Logger // nil discards
	// StartDelay is how long a snapshot that is due at the start waits: the
	// start of a cluster has the disk for itself. A minute if 0.
	StartDelay time.Duration
}

// Scheduler takes snapshots at their times. It is a component.Component.
type Scheduler struct {
	o SchedulerOptions

	work    sync.Mutex // one snapshot at a time; for what follows
	last    Info       // taken by this process; its revision can be compared
	pending string     // path of a snapshot that is not yet in the bucket

	mu     sync.Mutex
	status Status
}

// NewScheduler returns a Scheduler that waits for Run or Take.
func NewScheduler(o SchedulerOptions) *Scheduler {
	if o.Retention == 0 {
		o.Retention = DefaultRetention
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.StartDelay == 0 {
		o.StartDelay = time.Minute
	}
	s := &Scheduler{o: o, status: Status{Dir: o.Dir, Schedule: o.Timing.String()}}
	if o.Bucket != nil {
		s.status.Bucket = &BucketStatus{Bucket: o.Bucket.String()}
	}
	return s
}

// Name is component.Component's.
func (s *Scheduler) Name() string { return "snapshots" }

// Status returns the present status.
func (s *Scheduler) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.clone()
}

func (s *Scheduler) update(change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.status)
}

// Run takes snapshots until ctx is done. A failure (a full disk, say) is logged
// and in the status; the old ones stay, and the next time is the next attempt.
func (s *Scheduler) Run(ctx context.Context, ready func()) error {
	newest := s.look()
	ready()
	now := time.Now()
	due := s.o.Timing.first(newest, now)
	if earliest := now.Add(s.o.StartDelay); due.Before(earliest) {
		due = earliest
	}
	for s.sleep(ctx, due) {
		s.scheduled(ctx)
		due = s.o.Timing.next(time.Now())
	}
	return nil
}

// look notes what is in the directory, and returns the time of the newest
// scheduled snapshot.
func (s *Scheduler) look() (newest time.Time) {
	list, err := List(s.o.Dir)
	if err != nil {
		s.o.Logger.Warn("snapshots cannot be listed", "error", err)
	}
	s.update(func(st *Status) {
		st.Count, st.Bytes = 0, 0
		for _, i := range list {
			st.Count++
			st.Bytes += i.Bytes
			if i.Damage != "" || i.Node != nodeName(s.o.Node) {
				continue
			}
			if st.Newest == nil || i.Created.After(st.Newest.Created) {
				st.Newest, st.Current = &i, i.Created
			}
			if i.Reason == Scheduled && i.Created.After(newest) {
				newest = i.Created
			}
		}
	})
	return newest
}

// maxSleep is how long a clock that was set may go unnoticed: a timer does not
// see it, and the clock of a machine without a battery is set after the start.
const maxSleep = time.Hour

// sleep waits for a time of the clock. It reports false when ctx is done.
func (s *Scheduler) sleep(ctx context.Context, due time.Time) bool {
	due = due.Round(0) // the clock's time, not the timer's
	for {
		now := time.Now().Round(0)
		if latest := s.o.Timing.next(now); due.After(latest) { // the clock was set back
			due = latest
		}
		s.update(func(st *Status) { st.Next = due })
		if !now.Before(due) {
			return true
		}
		timer := time.NewTimer(min(due.Sub(now), maxSleep))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
}

func (s *Scheduler) scheduled(ctx context.Context) {
	s.work.Lock()
	defer s.work.Unlock()
	var err error
	if s.unchanged() {
		s.o.Logger.Debug("nothing has changed since the last snapshot", "revision", s.last.Revision)
		s.update(func(st *Status) { st.Skipped++; st.Current = time.Now(); st.Error = "" })
		err = s.upload(ctx)
	} else {
		_, err = s.take(ctx, Scheduled)
	}
	if err != nil && ctx.Err() == nil {
		s.o.Logger.Error("scheduled snapshot failed; the old ones are kept, and the next is tried at its time",
			"next", s.o.Timing.next(time.Now()), "error", err)
	}
}

func (s *Scheduler) unchanged() bool {
	return s.o.Revision != nil && s.last.Name != "" && s.o.Revision() == s.last.Revision && !readInfo(s.last.Path).broken()
}

// broken reports whether the file is not there any more, or damaged at its head.
func (i Info) broken() bool { return i.Damage != "" }

// Take takes a snapshot now. With a bucket it is uploaded, too: if only that
// failed, the error is ErrUpload and the snapshot is returned with it.
func (s *Scheduler) Take(ctx context.Context, reason Reason) (Info, error) {
	s.work.Lock()
	defer s.work.Unlock()
	return s.take(ctx, reason)
}

func (s *Scheduler) take(ctx context.Context, reason Reason) (Info, error) {
	start := time.Now()
	info, err := Save(ctx, s.o.Source, s.o.Dir, SaveOptions{Node: s.o.Node, Reason: reason})
	if err != nil {
		if ctx.Err() == nil { // being stopped is no failure
			s.update(func(st *Status) { st.Failed++; st.Failure, st.Error = time.Now(), err.Error() })
		}
		return Info{}, err
	}
	s.last, s.pending = info, info.Path
	s.o.Logger.Info("snapshot saved", "name", info.Name, "keys", info.Keys, "bytes", info.Bytes,
		"duration", time.Since(start).Round(time.Millisecond))
	// The new one is on the disk: an old one may go.
	if _, err := Prune(ctx, s.o.Dir, s.ring()); err != nil {
		s.o.Logger.Warn("old snapshots are not deleted", "error", err)
	}
	s.look()
	s.update(func(st *Status) { st.Taken++; st.Newest, st.Current, st.Error = &info, info.Created, "" })
	return info, s.upload(ctx)
}

func (s *Scheduler) ring() Ring {
	return Ring{Node: s.o.Node, Reason: Scheduled, Keep: s.o.Retention}
}

// upload sends the snapshot that is not in the bucket yet. Of several that
// failed only the newest is sent: the older ones are still in the directory.
func (s *Scheduler) upload(ctx context.Context) error {
	if s.o.Bucket == nil || s.pending == "" {
		return nil
	}
	name := filepath.Base(s.pending)
	if err := s.o.Bucket.Upload(ctx, s.pending); err != nil {
		s.update(func(st *Status) {
			st.Bucket.Failed++
			st.Bucket.Failure, st.Bucket.Error = time.Now(), err.Error()
		})
		return fmt.Errorf("%w: %s is in %s: %w", ErrUpload, name, s.o.Dir, err)
	}
	s.pending = ""
	s.o.Logger.Info("snapshot uploaded", "name", name, "bucket", s.o.Bucket.String())
	s.update(func(st *Status) {
		st.Bucket.Success, st.Bucket.Newest, st.Bucket.Error = time.Now(), name, ""
	})
	if _, err := s.o.Bucket.Prune(ctx, s.ring()); err != nil {
		s.o.Logger.Warn("old snapshots in the bucket are not deleted", "error", err)
	}
	return nil
}
