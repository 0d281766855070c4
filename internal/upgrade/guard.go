package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/machine"
	"github.com/limpetio/limpet/internal/status"
)

// Guard does what the journal says until the operation has ended, one guard at
// a time. It can be killed at any moment and started again.
func Guard(ctx context.Context, dataDir string, log *slog.Logger) error {
	if err := machine.RequireRoot(); err != nil {
		return err
	}
	release, err := lockGuard(ctx, dataDir)
	if errors.Is(err, errHeld) {
		return nil // another one is at work
	}
	if err != nil {
		return err
	}
	defer release()
	j, ok, err := LoadIfAny(dataDir)
	if err != nil || !ok {
		return err
	}
	g := &guard{dataDir: dataDir, log: log, control: j.control(dataDir), healthy: watch}
	if j, err = g.follow(ctx, j); err != nil {
		return err
	}
	return g.conclude(ctx, j)
}

type guard struct {
	dataDir string
	log     *slog.Logger
	control control
	// healthy waits for limpet to be: watch, if no test replaces it.
	healthy func(context.Context, Journal, control) Event
}

// follow takes step after step, each one noted before and after.
func (g *guard) follow(ctx context.Context, j Journal) (Journal, error) {
	if !j.Final() && j.Phase != Staged {
		g.log.Info("going on with what was interrupted", "phase", j.Phase, "step", j.Step)
		if j = j.Next(Event{Kind: Resumed}); j.Final() {
			j.Ended = time.Now().UTC()
		}
		if err := j.save(g.dataDir); err != nil {
			return j, err
		}
	}
	for pause := time.Second; !j.Final(); {
		event := g.do(ctx, j)
		if ctx.Err() != nil {
			return j, fmt.Errorf("the guard of the upgrade was told to stop: %w", context.Cause(ctx)) // it goes on when it is started again
		}
		again := j
		if j = j.Next(event); j.Final() {
			j.Ended = time.Now().UTC()
		}
		if err := j.save(g.dataDir); err != nil {
			g.log.Error("the record of the upgrade cannot be written, trying again", "error", err)
			j = again
		}
		if event.Kind == Failed {
			g.log.Error("a step of the upgrade failed", "phase", again.Phase, "step", again.Step, "error", event.Reason)
		}
		if j.Step != again.Step || j.Phase != again.Phase {
			g.log.Info(j.Sentence(), "phase", j.Phase, "step", j.Step)
			pause = time.Second
			continue
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, time.Minute)
	}
	return j, nil
}

// do takes the step that the journal is at.
func (g *guard) do(ctx context.Context, j Journal) Event {
	if j.Phase == Staged {
		return Event{Kind: Done}
	}
	var err error
	event := Event{Kind: Done}
	switch j.Step {
	case StepSnapshot:
		if event.Snapshot, err = takeSnapshot(ctx, j, g.log); err != nil {
			err = fmt.Errorf("the datastore could not be saved: %w", err)
		}
	case StepStop:
		err = g.control.stop(ctx)
	case StepInstall:
		err = g.install(ctx, j)
	case StepRestore:
		_, file := j.target()
		err = restoreData(ctx, j, file, g.log)
	case StepStart:
		err = g.control.start(ctx)
	case StepWatch:
		return g.healthy(ctx, j, g.control)
	}
	if err != nil {
		return Event{Kind: Failed, Reason: err.Error()}
	}
	return event
}

// install puts the binary of the way into its place, unless it is there.
func (g *guard) install(ctx context.Context, j Journal) error {
	want, _ := j.target()
	if have, err := sumOf(ctx, j.Installed); err == nil && have == want.SHA256 {
		return nil
	}
	src := stagedFile(g.dataDir)
	if j.Phase == Returning {
		src = previousFile(g.dataDir)
	}
	if have, err := sumOf(ctx, src); err != nil || have != want.SHA256 {
		return errors.Join(fmt.Errorf("%s is not the %s that was put there: the disk may be failing", src, want.Version), err)
	}
	if err := place(ctx, src, j.Installed, true); err != nil {
		return fmt.Errorf("replace %s: %w", j.Installed, err)
	}
	return nil
}

// watch waits until limpet is healthy, or its time is over.
func watch(ctx context.Context, j Journal, c control) Event {
	v := &vigil{timeout: j.Timeout, ignore: j.Ignore}
	begun, base := time.Now(), c.ends(ctx)
	looks := time.NewTicker(lookEvery)
	defer looks.Stop()
	for {
		o := observation{at: time.Since(begun)} // running time
		o.report, o.err = status.Fetch(ctx, status.Socket)
		o.installed = runs(o.report.PID, j.Installed)
		if o.err != nil || !o.installed {
			o.ends = max(0, c.ends(ctx)-base)
		}
		switch verdict, reason := v.look(o); verdict {
		case healthy:
			return Event{Kind: Done}
		case unhealthy:
			return Event{Kind: Failed, Reason: reason}
		}
		select {
		case <-looks.C:
		case <-ctx.Done():
			return Event{Kind: Failed, Reason: ctx.Err().Error()}
		}
	}
}

// conclude removes what the operation needed. The journal is final: whatever
// fails here is tried again only by a next boot, and harms nothing.
func (g *guard) conclude(ctx context.Context, j Journal) error {
	errs := []error{g.tidy(j)}
	if j.Phase == Confirmed {
		errs = append(errs, pruneSnapshots(ctx, j))
	}
	report(ctx, g.dataDir, j, g.log)
	errs = append(errs, withdraw(ctx, j.Service.Manager))
	if err := errors.Join(errs...); err != nil {
		g.log.Warn("not all of the upgrade could be tidied up", "error", err)
	}
	return nil
}

// tidy leaves what a rollback may need, and the proofs of the installed binary.
func (g *guard) tidy(j Journal) error {
	var errs []error
	move := func(from, to string) {
		if _, err := os.Lstat(from); err != nil {
			return
		}
		errs = append(errs, os.RemoveAll(to), os.Rename(from, to))
	}
	remove := func(path string) {
		if err := os.RemoveAll(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	proofs, before := ReleaseDir(g.dataDir), filepath.Join(dir(g.dataDir), "release.previous")
	switch {
	case j.Kind == KindUpgrade && j.Phase == Confirmed:
		remove(stagedFile(g.dataDir)) // it is installed
		if _, err := os.Lstat(stagedDir(g.dataDir)); err == nil {
			remove(before)
			move(proofs, before)
			move(stagedDir(g.dataDir), proofs)
		}
	case j.Kind == KindRollback && j.Phase == Confirmed:
		if _, err := os.Lstat(previousFile(g.dataDir)); err == nil { // not yet tidied up
			remove(proofs)
			move(before, proofs)
			remove(previousFile(g.dataDir))
		}
	case j.Kind == KindRollback:
		move(stagedFile(g.dataDir), previousFile(g.dataDir)) // for another attempt
	default:
		remove(previousFile(g.dataDir)) // it is what is installed
	}
	for _, path := range []string{stagedDir(g.dataDir), commandFile(g.dataDir), unfinished(j.Installed), unfinished(previousFile(g.dataDir))} {
		remove(path)
	}
	return errors.Join(append(errs, atomicfile.SyncDir(dir(g.dataDir)))...)
}
