package component

import (
	"fmt"
	"io"
	"log/slog"
	"time"
)

// Timeline returns an observer that prints the start-up for a person: one line
// when a component becomes ready, fails, or has to be restarted.
//
//	2.41s  kube-apiserver        ready    (took 2.2s)
func Timeline(w io.Writer, started time.Time) func(State) {
	return func(s State) {
		at := s.Since.Sub(started).Seconds()
		switch s.Phase {
		case Ready:
			fmt.Fprintf(w, "%7.2fs  %-24s ready      took %.2fs\n", at, s.Name, s.Took.Seconds())
		case Restarting:
			fmt.Fprintf(w, "%7.2fs  %-24s restarting %s\n", at, s.Name, s.Reason)
		case Failed:
			fmt.Fprintf(w, "%7.2fs  %-24s FAILED     %s\n", at, s.Name, s.Reason)
		case Stopped:
			fmt.Fprintf(w, "%7.2fs  %-24s stopped\n", at, s.Name)
		}
	}
}

// LogTo returns an observer that writes one structured line per change worth knowing.
func LogTo(log *slog.Logger) func(State) {
	return func(s State) {
		l := log.With("component", s.Name)
		switch s.Phase {
		case Ready:
			l.Info("component is ready", "took", s.Took.Round(time.Millisecond), "after", s.ReadyAfter.Round(time.Millisecond))
		case Restarting:
			l.Warn("component failed and will be restarted", "error", s.Reason, "restarts", s.Restarts)
		case Failed:
			l.Error("component failed", "error", s.Reason)
		case Stopped:
			l.Info("component has stopped")
		case Done:
			l.Debug("component is done")
		}
	}
}
