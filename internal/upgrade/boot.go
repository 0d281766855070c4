package upgrade

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/restart"
	"github.com/limpetio/limpet/internal/status"
)

// Boot is the first thing that a server or an agent does. If an operation is
// under way, it sees to its guard; and while the guard is about to replace the
// data, it waits. Its error is a *restart.Needed if another binary has been
// installed meanwhile.
func Boot(ctx context.Context, dataDir string, log *slog.Logger) error {
	log = log.With("component", "upgrade")
	j, ok, err := LoadIfAny(dataDir)
	if err != nil {
		log.Warn("if there was an upgrade under way, it is not watched over", "error", err)
		return nil
	}
	if !ok || j.Final() {
		sweep(dataDir)
		return nil
	}
	log.Info(j.Sentence(), "phase", j.Phase, "step", j.Step)
	if !j.Offline() {
		// Not in the way of the start. A guard that is at work is left alone.
		go func() {
			if err := launch(ctx, dataDir, j); err != nil && ctx.Err() == nil {
				log.Error("the upgrade is not watched over", "error", err)
			}
		}()
		return nil
	}
	log.Info("waiting until the data of before is back")
	for pause := time.Duration(0); ctx.Err() == nil; pause = min(pause+time.Second, 10*time.Second) {
		if err := launch(ctx, dataDir, j); err != nil && ctx.Err() == nil {
			log.Error("the upgrade is not watched over", "error", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		if j, err = Load(dataDir); err != nil {
			log.Error("the record of the upgrade cannot be read", "error", err)
			continue
		}
		if !j.Offline() {
			break
		}
	}
	if ctx.Err() == nil && !runs(os.Getpid(), j.Installed) {
		return &restart.Needed{Reason: "another version has been installed", Installed: true}
	}
	return nil
}

// Component is the part of a running server or agent that RestartSignal is for.
func Component() component.Component {
	return component.Func("upgrade", func(ctx context.Context, ready func()) error {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, RestartSignal)
		defer signal.Stop(signals)
		ready()
		select {
		case <-signals:
			return &restart.Needed{Reason: "another version has been installed", Installed: true}
		case <-ctx.Done():
			return nil
		}
	})
}

// Status is what limpet status shows of the newest operation; nil if there has
// been none, or it is of no interest any more.
func Status(dataDir string) *status.Upgrade {
	j, ok, err := LoadIfAny(dataDir)
	if err != nil {
		return &status.Upgrade{Text: err.Error(), Failed: true}
	}
	if !ok {
		return nil
	}
	return &status.Upgrade{
		ID: j.ID, Kind: string(j.Kind), Phase: string(j.Phase), From: j.From.Version, To: j.To.Version,
		Text: j.Sentence(), UnderWay: !j.Final(), Failed: j.Phase == RolledBack || j.Phase == Abandoned, Ended: j.Ended,
	}
}
