package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// A change is acted upon when the directory has been quiet for so long...
	quietTime = 100 * time.Millisecond
	// ...or, while changes keep coming, after so long.
	quietLimit = 500 * time.Millisecond
)

// watcher tells of changes in the manifests directory.
type watcher struct {
	notify *fsnotify.Watcher
}

func newWatcher() (*watcher, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch the manifests directory: %w; if the limit is reached, raise the sysctl fs.inotify.max_user_instances", err)
	}
	return &watcher{notify: notify}, nil
}

func (w *watcher) close() { _ = w.notify.Close() }

// add watches one directory; doing it twice is harmless.
func (w *watcher) add(dir string) error {
	if err := w.notify.Add(dir); err != nil {
		return fmt.Errorf("watch %s: %w; if the limit is reached, raise the sysctl fs.inotify.max_user_watches", dir, err)
	}
	return nil
}

// wait returns true after a change that has settled, false at the time next
// (zero: never). The error says that watching is not possible any more.
func (w *watcher) wait(ctx context.Context, next time.Time) (changed bool, err error) {
	var due <-chan time.Time
	if !next.IsZero() {
		timer := time.NewTimer(time.Until(next))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
		return false, nil
	case <-due:
		return false, nil
	case _, ok := <-w.notify.Events:
		if !ok {
			return false, errWatchClosed
		}
	case err := <-w.notify.Errors:
		if err := watchError(err); err != nil {
			return false, err
		}
	}
	return true, w.settle(ctx)
}

// settle waits until no more events come, within limits.
func (w *watcher) settle(ctx context.Context) error {
	limit := time.NewTimer(quietLimit)
	defer limit.Stop()
	quiet := time.NewTimer(quietTime)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-quiet.C:
			return nil
		case <-limit.C:
			return nil
		case _, ok := <-w.notify.Events:
			if !ok {
				return errWatchClosed
			}
			quiet.Reset(quietTime)
		case err := <-w.notify.Errors:
			if err := watchError(err); err != nil {
				return err
			}
		}
	}
}

var errWatchClosed = errors.New("the watch on the manifests directory was closed")

// watchError lets an overflow pass: everything is looked at anew anyway.
func watchError(err error) error {
	switch {
	case err == nil:
		return errWatchClosed
	case errors.Is(err, fsnotify.ErrEventOverflow):
		return nil
	}
	return fmt.Errorf("watch the manifests directory: %w", err)
}
