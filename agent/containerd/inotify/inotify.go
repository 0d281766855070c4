// Package inotify waits for changes in one directory.
//
// It exists beside fsnotify because of IN_CLOSE_WRITE, which fsnotify does not
// deliver and which alone tells that a large file has been copied completely.
// A watcher costs nothing while nothing happens: reads wait in Go's poller.
package inotify

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Written means that files were completed, Removed that they went away.
const (
	Created = unix.IN_CREATE
	Written = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO
	Removed = unix.IN_DELETE | unix.IN_MOVED_FROM
	// Lost is always watched: the directory itself went away, or events were
	// dropped. Look at everything again.
	Lost = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_UNMOUNT | unix.IN_Q_OVERFLOW | unix.IN_IGNORED
)

// Event is a change of the entry Name; Name is empty for the directory itself.
type Event struct {
	Name string
	Mask uint32
}

// Watcher watches one directory. Its methods are for one goroutine.
type Watcher struct {
	file *os.File
	buf  [64 * (unix.SizeofInotifyEvent + unix.NAME_MAX + 1)]byte
}

// New starts watching dir for the events in mask; they are kept until Read.
func New(dir string, mask uint32) (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	w := &Watcher{file: os.NewFile(uintptr(fd), "inotify")}
	if _, err := unix.InotifyAddWatch(fd, dir, mask|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", dir, err), w.Close())
	}
	return w, nil
}

// Read waits for events, or for ctx, whose error it returns then. After the
// first end of ctx the watcher is of no use any more.
func (w *Watcher) Read(ctx context.Context) ([]Event, error) {
	stop := context.AfterFunc(ctx, func() { _ = w.file.Close() }) // wakes up the read
	n, err := w.file.Read(w.buf[:])
	stop()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	return parse(w.buf[:n]), nil
}

// Close ends the watch.
func (w *Watcher) Close() error { return w.file.Close() }

// parse decodes struct inotify_event records (inotify(7)).
func parse(b []byte) []Event {
	var events []Event
	for len(b) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(b[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if end > len(b) {
			return events
		}
		events = append(events, Event{Name: unix.ByteSliceToString(b[unix.SizeofInotifyEvent:end]), Mask: mask})
		b = b[end:]
	}
	return events
}

// File calls changed at once, and then whenever the file at path may have been
// replaced, written, made or removed, until ctx is done. Neither the file nor
// its directory needs to exist: then the nearest directory that does is watched.
func File(ctx context.Context, path string, changed func()) error {
	for {
		dir, name := existing(path)
		mask := uint32(Written | Removed)
		if dir != filepath.Dir(path) {
			mask = Created | Written // of the directory on the way
		}
		w, err := New(dir, mask)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue // removed just now
		}
		if err != nil {
			return err
		}
		if d, n := existing(path); d != dir || n != name { // it changed before the watch began
			_ = w.Close()
			continue
		}
		changed() // so that nothing from before the watch is missed
		err = waitFor(ctx, w, name)
		_ = w.Close() // closed already when ctx is done
		if err != nil {
			return err
		}
	}
}

// waitFor returns nil when the entry name, or the directory, has changed.
func waitFor(ctx context.Context, w *Watcher, name string) error {
	for {
		events, err := w.Read(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Name == name || e.Mask&Lost != 0 {
				return nil
			}
		}
	}
}

// existing returns the nearest directory above path that exists, and the entry
// in it that leads to path.
func existing(path string) (dir, name string) {
	for dir, name = filepath.Split(filepath.Clean(path)); ; dir, name = filepath.Split(filepath.Clean(dir)) {
		if info, err := os.Stat(dir); err == nil && info.IsDir() || dir == "/" {
			return filepath.Clean(dir), name
		}
	}
}
