// Package images imports the image files of a node: archives in a directory, at
// start and whenever one is put there, for machines without a registry.
package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"

	"github.com/limpetio/limpet/agent/containerd/inotify"
)

// workers is how many files are imported at a time. Unpacking is bound by the
// disk; a third one would only make small machines slower.
const workers = 2

// State is how far a file has got.
type State string

// The states of a file.
const (
	Pending   State = "pending"
	Importing State = "importing"
	Imported  State = "imported"
	Failed    State = "failed"
)

// FileStatus tells what became of one file.
type FileStatus struct {
	File  string `json:"file"` // name within the directory
	State State  `json:"state"`
	// Since is when it came to that state.
	Since time.Time `json:"since"`
	// Images are the references that the file brought, in full.
	Images []string `json:"images,omitempty"`
	// Error is why it failed; it is tried again when the file changes.
	Error string `json:"error,omitempty"`
	// Seconds is how long the import took; 0 if the file had not changed since
	// an earlier start.
	Seconds float64 `json:"seconds,omitempty"`
}

// Options of an Importer.
type Options struct {
	// Dir is the directory of the image files; it is made if it does not exist.
	Dir string
	// Snapshotter the images are unpacked for, so that the first pod need not wait.
	Snapshotter string
	// DiscardUnpackedLayers as in containerd's configuration.
	DiscardUnpackedLayers bool
	// Pull fetches an image of a list file, as the kubelet would.
	Pull func(ctx context.Context, ref string) error
	// Imported, if set, is called after each file that brought images.
	Imported func()
	Logger   *slog.Logger
}

// Importer imports the files of one directory. Make one with New.
type Importer struct {
	opts   Options
	client *containerd.Client

	mu    sync.Mutex
	files map[string]*file // by name
	// wake has a token when there may be work to do.
	wake chan struct{}
}

// file is a file that was seen and what was done about it. The importer's mutex
// guards it.
type file struct {
	status FileStatus
	stamp  stamp
	// open is true between a file's creation and the end of its writing.
	open bool
	// images by their names, with the digests of what they refer to.
	images map[string]string
}

// New makes an Importer; Run starts it.
func New(opts Options, client *containerd.Client) *Importer {
	return &Importer{opts: opts, client: client, files: map[string]*file{}, wake: make(chan struct{}, 1)}
}

// Status lists the files by name.
func (i *Importer) Status() []FileStatus {
	i.mu.Lock()
	defer i.mu.Unlock()
	list := make([]FileStatus, 0, len(i.files))
	for _, f := range i.files {
		s := f.status
		s.Images = slices.Clone(s.Images)
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b FileStatus) int { return strings.Compare(a.File, b.File) })
	return list
}

// Run imports what is in the directory and what comes into it, until ctx is done.
// A broken file does not stop it. The error is nil, unless the directory cannot
// be watched.
func (i *Importer) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := os.MkdirAll(i.opts.Dir, 0o755); err != nil {
			return fmt.Errorf("images directory: %w", err)
		}
		// Watch first, scan then: so nothing falls between.
		w, err := inotify.New(i.opts.Dir, inotify.Created|inotify.Written|inotify.Removed)
		if err != nil {
			return fmt.Errorf("images directory: %w", err)
		}
		err = i.watch(ctx, w)
		_ = w.Close() // closed already when ctx is done
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("images directory: %w", err)
		}
	}
	return nil
}

// watch returns nil when the directory is gone.
func (i *Importer) watch(ctx context.Context, w *inotify.Watcher) error {
	if err := i.loadCache(ctx); err != nil && ctx.Err() == nil {
		i.opts.Logger.Warn("image files are all imported again", "reason", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { i.work(ctx) })
	defer wg.Wait()
	defer cancel()
	for {
		if err := i.scan(); err != nil {
			return err
		}
		events, err := w.Read(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Mask&inotify.Lost != 0 && e.Name == "" {
				return nil
			}
			i.noteOpen(e)
		}
	}
}

// noteOpen follows who is still being written: a created file is complete when
// its writer closes it. A link is created complete.
func (i *Importer) noteOpen(e inotify.Event) {
	if kindOf(e.Name) == other {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	f := i.files[e.Name]
	switch {
	case e.Mask&inotify.Written != 0 && f != nil:
		f.open = false
	case e.Mask&inotify.Created != 0:
		info, err := os.Lstat(filepath.Join(i.opts.Dir, e.Name))
		if err == nil && info.Mode().IsRegular() && links(info) == 1 {
			if f == nil {
				f = &file{status: FileStatus{File: e.Name, State: Pending, Since: time.Now()}}
				i.files[e.Name] = f
			}
			f.open = true
		}
	}
}

// scan compares the directory with what is known of it and wakes the workers up.
func (i *Importer) scan() error {
	entries, err := os.ReadDir(i.opts.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // Read says so next
	}
	if err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	seen := map[string]bool{}
	for _, e := range entries {
		if kindOf(e.Name()) == other {
			continue
		}
		info, err := os.Stat(filepath.Join(i.opts.Dir, e.Name()))
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		seen[e.Name()] = true
		f := i.files[e.Name()]
		if f == nil {
			f = &file{}
			i.files[e.Name()] = f
		}
		if s := stampOf(info); f.stamp != s {
			// The images of the content before stay known until the new ones are in.
			f.stamp = s
			f.status = FileStatus{File: e.Name(), State: Pending, Since: time.Now()}
		}
	}
	for name := range i.files {
		if !seen[name] {
			delete(i.files, name)
		}
	}
	i.signal()
	return nil
}

func (i *Importer) signal() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}

// work imports pending files, workers at a time, until ctx is done. Whenever
// there is nothing left to do it brings labels and cache up to date.
func (i *Importer) work(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, workers)
	for {
		select {
		case <-i.wake:
		case <-ctx.Done():
			return
		}
		for f := i.next(); f != nil; f = i.next() {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			running.Go(func() {
				defer func() { <-slots; i.signal() }()
				i.importFile(ctx, f)
			})
		}
		if i.idle() {
			if err := i.settle(ctx); err != nil && ctx.Err() == nil {
				i.opts.Logger.Warn("image files: labels and cache could not be updated", "error", err)
			}
		}
	}
}

// next takes the first pending file, by name.
func (i *Importer) next() *file {
	i.mu.Lock()
	defer i.mu.Unlock()
	var first *file
	for _, f := range i.files {
		if f.status.State == Pending && !f.open && (first == nil || f.status.File < first.status.File) {
			first = f
		}
	}
	if first != nil {
		first.status.State, first.status.Since = Importing, time.Now()
	}
	return first
}

func (i *Importer) idle() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, f := range i.files {
		if f.status.State == Importing || f.status.State == Pending && !f.open {
			return false
		}
	}
	return true
}

func (i *Importer) importFile(ctx context.Context, f *file) {
	i.mu.Lock()
	name, before := f.status.File, f.stamp
	i.mu.Unlock()

	start := time.Now()
	images, err := i.importPath(ctx, filepath.Join(i.opts.Dir, name))
	took := time.Since(start)
	if ctx.Err() != nil {
		return
	}

	i.finish(f, before, images, err, took)
	if len(images) > 0 && i.opts.Imported != nil {
		i.opts.Imported()
	}
}

// finish records what became of a file.
func (i *Importer) finish(f *file, before stamp, images map[string]string, err error, took time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if f.stamp != before {
		return // it has changed meanwhile: scan made it pending again
	}
	name := f.status.File
	f.status = FileStatus{File: name, State: Imported, Since: time.Now(), Images: sortedKeys(images), Seconds: took.Seconds()}
	if err == nil {
		f.images = images
		i.opts.Logger.Info("image file imported", "file", name, "images", f.status.Images, "took", took.Round(time.Millisecond))
		return
	}
	f.status.State, f.status.Error = Failed, err.Error()
	known := maps.Clone(f.images) // what it brought before is not given up
	if known == nil {
		known = map[string]string{}
	}
	maps.Copy(known, images)
	f.images = known
	i.opts.Logger.Error("image file could not be imported", "file", name, "error", err)
}
