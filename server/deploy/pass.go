package deploy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// pass looks at everything and does what is due. Without scan it looks at the
// embedded files only. It reports whether those have been dealt with.
func (c *Controller) pass(ctx context.Context, scan *scanner, changed bool) (served bool) {
	embedded, err := c.embedded()
	if err != nil {
		c.trouble(err)
		return false
	}
	if err := c.journal.load(ctx); err != nil {
		c.trouble(err)
		return false
	}
	defer c.executor.objects.forget()
	c.recovered()

	files, dirScanned := embedded, false
	if scan != nil {
		if found, err := c.scanDirectory(ctx, scan); err != nil {
			c.conclude(ctx, fileID{c.dirOrig, "."}, entry{status: FileStatus{State: Failed, Error: err.Error()}}, outcome{}, false)
		} else {
			files, dirScanned = append(files, found...), true
		}
	}
	steps := plan(files, c.journal.all(), func(o origin) bool {
		return o == originEmbedded || dirScanned && o == c.dirOrig
	})
	c.noteHeld(ctx, files)
	c.forgetGone(files, steps, scan == nil || !dirScanned)
	for _, embeddedOnes := range []bool{true, false} { // what others build on comes first
		var due []step
		for _, s := range steps {
			if (s.id.origin == originEmbedded) == embeddedOnes && c.ledger.due(s, changed) {
				due = append(due, s)
			}
		}
		c.perform(ctx, due)
	}
	return c.ledger.served(embedded)
}

// perform executes steps and writes down what became of them.
func (c *Controller) perform(ctx context.Context, steps []step) {
	if len(steps) == 0 {
		return
	}
	known := make([]string, len(steps))
	for i, s := range steps {
		rec, _ := c.journal.get(s.id)
		known[i] = rec.checksum
	}
	began := time.Now()
	outcomes := c.executor.run(ctx, steps)
	if ctx.Err() != nil {
		return // being stopped is no failure
	}
	applied := 0
	for i, s := range steps {
		applied += outcomes[i].applied
		c.conclude(ctx, s.id, c.entryFor(s, outcomes[i]), outcomes[i], known[i] != s.checksum)
	}
	c.log.Debug("manifests looked at", "files", len(steps), "objects", applied, "took", time.Since(began).Round(time.Millisecond))
}

// entryFor judges the outcome of a step.
func (c *Controller) entryFor(s step, o outcome) entry {
	e := entry{revision: s.revision, settled: len(o.errs) == 0, rejected: o.rejected()}
	e.status = FileStatus{State: Applied, Checksum: s.checksum, Objects: o.applied}
	problems := s.problems
	if err := o.err(); err != nil {
		problems = append([]string{err.Error()}, problems...)
	}
	e.status.Error = strings.Join(problems, "; ")
	switch {
	case s.remove && c.disabled[s.id.component()]:
		e.status.State = Disabled
	case s.remove:
		e.status.State = Pruning
	case e.status.Error != "":
		e.status.State = Failed
	}
	return e
}

// conclude stores what became of a file, and tells of it when it is news.
func (c *Controller) conclude(ctx context.Context, id fileID, e entry, o outcome, newContent bool) {
	before, news := c.ledger.set(id, e)
	rec, ok := c.journal.get(id)
	if !ok {
		rec = record{id: id}
	}
	if o.pruned > 0 {
		c.log.Info("deleted objects that no manifest holds any more", "file", id.String(), "objects", o.pruned)
		c.reporter.report(ctx, rec, reasonPruned, fmt.Sprintf("deleted %d objects that are not in the file any more", o.pruned))
	}
	switch {
	case e.status.Error != "" && news:
		c.log.Warn("a manifest cannot be applied as a whole; the others go on", "file", id.String(), "err", e.status.Error)
		c.reporter.report(ctx, rec, reasonFailed, e.status.Error)
	case e.status.State == Applied && (newContent || before.State == Failed):
		c.log.Info("applied a manifest", "file", id.String(), "objects", o.applied)
		c.reporter.report(ctx, rec, reasonApplied, fmt.Sprintf("applied %d objects", o.applied))
	}
	if e.settled && e.status.State == Pruning {
		c.ledger.keep(func(other fileID) bool { return other != id })
	}
}

// noteHeld writes down the state of files that are left alone.
func (c *Controller) noteHeld(ctx context.Context, files []file) {
	for _, f := range files {
		rec, _ := c.journal.get(f.id)
		e := entry{settled: true, revision: "held", status: FileStatus{Checksum: f.checksum, Objects: len(rec.refs)}}
		switch {
		case f.problem != nil:
			e.status.State, e.status.Error = Failed, f.problem.Error()
		case f.intent == intentSkip:
			e.status.State = Skipped
		case f.intent == intentWait:
			e.status.State, e.settled = Waiting, false
		case f.intent == intentRemove && len(rec.refs) == 0:
			e.status.State = Disabled
		default:
			continue
		}
		c.conclude(ctx, f.id, e, outcome{}, false)
	}
}

// forgetGone drops what is known of files that are gone with all they brought.
func (c *Controller) forgetGone(files []file, steps []step, partial bool) {
	current := make(map[fileID]bool, len(files)+len(steps))
	for _, f := range files {
		current[f.id] = true
	}
	for _, s := range steps {
		current[s.id] = true
	}
	c.ledger.keep(func(id fileID) bool {
		return current[id] || partial && id.origin != originEmbedded
	})
}

// scanDirectory lists the directory's files. A directory that is missing, at
// start or later, takes nothing away: see releaseRecords.
func (c *Controller) scanDirectory(ctx context.Context, scan *scanner) ([]file, error) {
	if c.release {
		if err := c.releaseRecords(ctx); err != nil {
			return nil, err
		}
	}
	files, err := scan.scan()
	if errors.Is(err, fs.ErrNotExist) {
		c.release = true
	}
	return files, err
}

// releaseRecords gives up the records of the directory's files after the
// directory was missing: a new or unmounted disk must not take the applications
// of a cluster away.
func (c *Controller) releaseRecords(ctx context.Context) error {
	if _, err := os.Stat(c.opts.Dir); err != nil {
		return fmt.Errorf("manifests directory: %w", err)
	}
	for _, rec := range c.journal.all() {
		if rec.id.origin != c.dirOrig {
			continue
		}
		if err := c.journal.drop(ctx, rec.id); err != nil {
			return fmt.Errorf("keep the objects of %s after the manifests directory was missing: %w", rec.id.path, err)
		}
		c.log.Warn("the manifests directory was missing: the objects of this file are kept; they are followed again when the file is back",
			"file", rec.id.String(), "objects", len(rec.refs))
		c.reporter.report(ctx, rec, reasonKept, fmt.Sprintf("the manifests directory was missing: %d objects are kept", len(rec.refs)))
	}
	c.ledger.keep(func(id fileID) bool { return id.origin != c.dirOrig })
	c.release = false
	return nil
}

// troubleID stands for everything that concerns no single file.
func troubleID() fileID { return fileID{originEmbedded, "(all)"} }

// trouble notes that nothing could be looked at; next will be soon.
func (c *Controller) trouble(err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	e := entry{status: FileStatus{State: Failed, Error: err.Error()}}
	if _, news := c.ledger.set(troubleID(), e); news {
		c.log.Warn("manifests cannot be looked at yet", "err", err)
	}
}

func (c *Controller) recovered() {
	c.ledger.keep(func(id fileID) bool { return id != troubleID() })
}
