package agent

import (
	"log/slog"

	"github.com/limpetio/limpet/agent/join"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/hostcheck"
)

// Check says what is wrong with the server's URL and with the arguments for
// upstream's components. It changes nothing and needs no privileges. What
// depends on the machine or on the server is left to Run.
func Check(cfg config.Agent) error {
	a := &agent{cfg: cfg.Node, log: slog.New(slog.DiscardHandler)}
	if _, _, err := join.ParseServer(cfg.ServerURL); err != nil {
		return err
	}
	if host, err := hostcheck.Detect(); err == nil {
		a.host = host
	}
	trial, err := New(a.options(trialSettings()))
	if err != nil {
		return err
	}
	return trial.Validate()
}
