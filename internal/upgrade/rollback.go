package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/limpetio/limpet/datastore/snapshot"
	"github.com/limpetio/limpet/internal/machine"
)

// Way is what a rollback would do.
type Way struct {
	// Now is what is installed, Back what it goes back to.
	Now, Back Build
	// Since is when the upgrade ended, by the clock of then.
	Since time.Time
	// Snapshot is what the datastore would be restored from; empty on an agent, or
	// if its data is to stay.
	Snapshot string
}

// WayBack looks what a rollback would do. withData: the datastore goes back, too.
func WayBack(ctx context.Context, dataDir string, withData bool) (Way, error) {
	way, _, err := wayBack(ctx, dataDir, withData)
	return way, err
}

// wayBack also tells where the binary of before is.
func wayBack(ctx context.Context, dataDir string, withData bool) (Way, string, error) {
	j, ok, err := LoadIfAny(dataDir)
	switch {
	case err != nil:
		return Way{}, "", err
	case !ok:
		return Way{}, "", refusal(NothingToGoBackTo, "", "this limpet has not been upgraded by limpet upgrade: there is no version of before")
	}
	way := Way{Now: j.To, Back: j.From, Since: j.Ended, Snapshot: j.Snapshot}
	switch {
	case !j.Final():
		return Way{}, "", refusal(UnderWay, "limpet status shows how far it is", "%s", j.Sentence())
	case j.Kind == KindRollback && j.Phase != Confirmed: // another attempt
		way = Way{Now: j.From, Back: j.To, Since: j.Ended, Snapshot: j.Restore}
	case j.Phase != Confirmed || j.Kind == KindRollback:
		return Way{}, "", refusal(NothingToGoBackTo, "", "there is nothing to go back to: the newest %s", j.Sentence())
	}
	if way.Snapshot != "" && !withData {
		way.Snapshot = ""
	} else if way.Snapshot != "" {
		if _, err := os.Stat(way.Snapshot); err != nil {
			return Way{}, "", refusal(NothingToGoBackTo, "--no-snapshot goes back with the data of now", "the snapshot of before the upgrade is gone: %v", err)
		}
	}
	for _, file := range []string{previousFile(dataDir), stagedFile(dataDir)} { // the latter: a rollback was broken off
		if sum, err := sumOf(ctx, file); err == nil && sum == way.Back.SHA256 {
			return way, file, nil
		}
	}
	return Way{}, "", refusal(NothingToGoBackTo, "limpet upgrade --to "+way.Back.Version+" --force installs it anew",
		"the binary of %s is not kept any more in %s", way.Back.Version, dir(dataDir))
}

// RollbackOptions of StartRollback.
type RollbackOptions struct {
	// WithData restores the snapshot of before the upgrade.
	WithData bool
	Options  // of which the source, the key and Force say nothing
}

// StartRollback starts the guard on the way back to the version of before the
// newest upgrade; see Await.
func StartRollback(ctx context.Context, o RollbackOptions) (id string, err error) {
	o.Options = o.complete()
	if err := machine.RequireRoot(); err != nil {
		return "", errors.New("this must run as root: it replaces limpet and restarts it")
	}
	way, kept, err := wayBack(ctx, o.DataDir, o.WithData)
	if err != nil {
		return "", err
	}
	p, err := begin(ctx, o.Options)
	if err != nil {
		return "", err
	}
	defer p.end()
	j := &p.journal
	if j.From.SHA256 != way.Now.SHA256 {
		return "", refusal(NothingToGoBackTo, "limpet upgrade --to VERSION goes to any version",
			"%s is not the binary that the newest upgrade has installed: somebody has replaced it since", j.Installed)
	}
	if way.Snapshot != "" {
		o.Progress("Checking " + filepath.Base(way.Snapshot))
		if _, err := snapshot.Verify(ctx, way.Snapshot, ""); err != nil {
			return "", &Error{Code: NothingToGoBackTo, Err: err, Do: "--no-snapshot goes back with the data of now"}
		}
	}
	// The binary of before changes its place first: whatever is cut off here can be begun anew.
	if err := os.MkdirAll(stagedDir(o.DataDir), 0o700); err != nil {
		return "", fmt.Errorf("make room for the version of before: %w", err)
	}
	if kept != stagedFile(o.DataDir) {
		if err := place(ctx, kept, stagedFile(o.DataDir), false); err != nil {
			return "", fmt.Errorf("prepare the version of before: %w", err)
		}
	}
	j.Kind, j.To, j.Restore = KindRollback, way.Back, way.Snapshot
	if j.Database == "" {
		j.Restore = ""
	}
	if err := p.examineKept(ctx); err != nil {
		return "", err
	}
	if err := p.keep(ctx); err != nil {
		return "", err
	}
	return p.launch(ctx)
}

// examineKept: it has run here once; does it still?
func (p *preparation) examineKept(ctx context.Context) error {
	if _, err := identify(ctx, stagedFile(p.DataDir)); err != nil {
		return &Error{Code: WrongMachine, What: p.journal.To.Version + " does not run any more", Err: err}
	}
	return nil
}
