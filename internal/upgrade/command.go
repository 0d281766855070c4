package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/limpetio/limpet/internal/logging"
)

// Control is what `limpet upgrade` and `limpet rollback` do.
type Control struct {
	Out     io.Writer
	DataDir string
	// Terminal: a person looks on, so that a download shows how far it is.
	Terminal bool
	Logger   *slog.Logger
}

// Upgrade goes to another version and waits for the outcome, which it prints.
// The error has the exit code.
func (c Control) Upgrade(ctx context.Context, o Options) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	id, err := Start(ctx, c.options(o))
	if errors.Is(err, ErrSame) {
		fmt.Fprintf(c.Out, "%v: nothing to do\n", err)
		return nil
	}
	if err != nil {
		return c.unchanged(ctx, err)
	}
	return c.await(ctx, id)
}

// WayBack is what Rollback would do.
func (c Control) WayBack(ctx context.Context, withData bool) (Way, error) {
	return WayBack(ctx, c.DataDir, withData)
}

// Rollback goes back to the version of before the newest upgrade and waits for
// the outcome.
func (c Control) Rollback(ctx context.Context, withData bool, timeout time.Duration) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	id, err := StartRollback(ctx, RollbackOptions{WithData: withData, Options: c.options(Options{Timeout: timeout})})
	if err != nil {
		return c.unchanged(ctx, err)
	}
	return c.await(ctx, id)
}

// Guard is the guard itself; detach: it only starts it.
func (c Control) Guard(ctx context.Context, detach bool) error {
	if detach {
		return Detach(c.DataDir)
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := logging.Setup(os.Stderr, logging.Options{}).Root.With("component", "upgrade-guard")
	return Guard(ctx, c.DataDir, log)
}

func (c Control) options(o Options) Options {
	o.DataDir, o.Logger = c.DataDir, c.Logger
	o.Progress = func(text string) { fmt.Fprintln(c.Out, text) }
	if c.Terminal {
		o.Download = c.download()
	}
	return o
}

// download prints how far it is, at most twice a second.
func (c Control) download() func(done, total int64) {
	var last time.Time
	return func(done, total int64) {
		if now := time.Now(); now.Sub(last) >= time.Second/2 || done == total {
			last = now
			of := ""
			if total > 0 {
				of = fmt.Sprintf(" of %d", total>>20)
			}
			fmt.Fprintf(c.Out, "\r%d%s MiB ", done>>20, of)
			if done == total {
				fmt.Fprintln(c.Out)
			}
		}
	}
}

func (c Control) unchanged(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("interrupted; nothing was changed: %w", err)
	}
	return err
}

// await tells of each step. Who interrupts it, or loses the connection, does not
// interrupt what goes on.
func (c Control) await(ctx context.Context, id string) error {
	returning := false
	j, err := Await(ctx, c.DataDir, id, func(j Journal) {
		if j.Phase == Returning && !returning {
			returning = true
			fmt.Fprintf(c.Out, "%s failed: %s\n", j.To.Version, j.Reason)
		}
		if text := j.progress(); text != "" {
			fmt.Fprintln(c.Out, text)
		}
	})
	if ctx.Err() != nil && !j.Final() {
		return &Error{
			Code: StillGoes, What: fmt.Sprintf("the %s goes on by itself, and back by itself if it fails", j.Kind),
			Do: "limpet status shows how far it is",
		}
	}
	if err != nil {
		return &Error{Code: StillGoes, Err: err}
	}
	_ = concluded(ctx, c.DataDir) // so that nothing is left when this command ends; it does not decide
	if err := j.Outcome(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.Out, "limpet %s is up and healthy\n", j.To.Version)
	return err
}

// progress says what the step at hand is.
func (j Journal) progress() string {
	to, _ := j.target()
	back := ""
	if j.Phase == Returning {
		back = "Going back: "
	}
	switch j.Step {
	case StepSnapshot:
		return "Taking a snapshot of the datastore"
	case StepStop:
		return back + "Stopping limpet (pods go on)"
	case StepInstall:
		return back + "Installing limpet " + to.Version
	case StepRestore:
		return back + "Restoring the datastore"
	case StepStart:
		return back + "Starting limpet " + to.Version + " (pods go on)"
	case StepWatch:
		return back + fmt.Sprintf("Waiting for limpet %s to be healthy, for up to %v", to.Version, j.Timeout)
	}
	return ""
}
