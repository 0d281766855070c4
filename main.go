// Command limpet is Kubernetes for the edge in one binary; see README.md.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/limpetio/limpet/agent"
	"github.com/limpetio/limpet/agent/ctr"
	"github.com/limpetio/limpet/internal/cli"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/datastorectl"
	"github.com/limpetio/limpet/internal/hostcheck"
	"github.com/limpetio/limpet/internal/kubectl"
	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/status"
	"github.com/limpetio/limpet/server"
)

func main() {
	app := cli.New(cli.Actions{
		Server:      untilSignal(server.Run),
		Agent:       untilSignal(agent.Run),
		Kubectl:     kubectl.Run,
		Ctr:         ctr.Run,
		CheckConfig: checkConfig,
		Datastore: func(w io.Writer, cfg config.Server) cli.DatastoreActions {
			return datastorectl.Control{Config: cfg, Out: w, Socket: status.Socket, DatastoreSocket: server.DatastoreSocket}
		},
		Status: func(ctx context.Context, w io.Writer, format cli.Format) error {
			return status.Print(ctx, w, status.Socket, format == cli.JSON)
		},
	})
	os.Exit(app.Run(context.Background(), os.Args))
}

// checkConfig fails when the machine lacks something that is required.
func checkConfig(ctx context.Context, w io.Writer, cfg config.Node) error {
	failed, err := hostcheck.Run(ctx, hostcheck.Options{DataDir: cfg.DataDir, Out: w, Color: logging.Terminal(os.Stdout)})
	if err == nil && failed {
		err = errors.New("this machine cannot run limpet as it is; see above")
	}
	return err
}

// untilSignal ends the context of run at the first SIGINT or SIGTERM. A second
// one has its default effect: the process ends at once. Other commands keep
// the default from the start, so that Ctrl-C ends a waiting kubectl.
func untilSignal[Config any](run func(context.Context, Config) error) func(context.Context, Config) error {
	return func(ctx context.Context, cfg Config) error {
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop)
		return run(ctx, cfg)
	}
}
