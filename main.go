// Command limpet is Kubernetes for the edge in one binary; see README.md.
package main

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

	"github.com/limpetio/limpet/agent"
	"github.com/limpetio/limpet/agent/containerd"
	"github.com/limpetio/limpet/agent/ctr"
	"github.com/limpetio/limpet/internal/bundle"
	"github.com/limpetio/limpet/internal/cli"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/containerinit"
	"github.com/limpetio/limpet/internal/datastorectl"
	"github.com/limpetio/limpet/internal/doctor"
	"github.com/limpetio/limpet/internal/hostcheck"
	"github.com/limpetio/limpet/internal/kubectl"
	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/nodectl"
	"github.com/limpetio/limpet/internal/restart"
	"github.com/limpetio/limpet/internal/servedapis"
	"github.com/limpetio/limpet/internal/status"
	"github.com/limpetio/limpet/internal/tokenctl"
	"github.com/limpetio/limpet/internal/uninstall"
	"github.com/limpetio/limpet/internal/upgrade"
	"github.com/limpetio/limpet/server"
)

func main() {
	image := restart.Capture()
	app := cli.New(cli.Actions{
		Server:      untilSignal(image, server.Run),
		Agent:       untilSignal(image, agent.Run),
		Kubectl:     kubectl.Run,
		Ctr:         ctr.Run,
		CheckConfig: checkConfig,
		CheckArguments: func(l *config.Loaded) error {
			if l.Command == config.ForAgent {
				return agent.Check(l.Agent())
			}
			return server.Check(l.Server)
		},
		Datastore: func(w io.Writer, cfg config.Server) cli.DatastoreActions {
			return datastorectl.Control{Config: cfg, Out: w, Socket: status.Socket, DatastoreSocket: server.DatastoreSocket}
		},
		Bundle: func(w io.Writer, cfg config.Server) cli.BundleActions {
			control := bundle.Control{Out: w, APIVersions: servedapis.List, Target: bundle.Target{
				Socket: containerd.SocketPath(agent.RunDir), ManifestsDir: server.ManifestsDir(cfg.DataDir),
			}}
			if logging.Terminal(os.Stderr) {
				control.Terminal = os.Stderr
			}
			return control
		},
		Node: func(w io.Writer, cfg config.Server) cli.NodeActions {
			return nodectl.Control{Config: cfg, Out: w}
		},
		Token: func(w io.Writer, cfg config.Server) cli.TokenActions {
			return tokenctl.Control{Config: cfg, Out: w}
		},
		Status: func(ctx context.Context, w io.Writer, format cli.Format) error {
			err := status.Print(ctx, w, status.Socket, format == cli.JSON)
			// While limpet does not run, an upgrade may be why.
			if line := upgrade.Status(uninstall.DataDir(config.DefaultDataDir)).Line(time.Now()); errors.Is(err, status.ErrNotRunning) && line != "" {
				err = fmt.Errorf("%w\n%s", err, line)
			}
			return err
		},
		Doctor: func(ctx context.Context, w io.Writer, e cli.Examination) error {
			return doctor.Run(ctx, doctor.Options{
				File: e.File, LogFile: e.LogFile, DataDir: uninstall.DataDir(e.DataDir), Config: e.Config, Problems: e.Problems,
				Kubeconfig: e.Kubeconfig, Secrets: e.Secrets, Out: w,
			})
		},
		Release: func(w io.Writer, cfg config.Server) cli.ReleaseActions {
			return server.Releases(w, cfg)
		},
		Upgrade: func(w io.Writer, dataDir string) cli.UpgradeActions {
			return upgrade.Control{
				Out: w, DataDir: uninstall.DataDir(dataDir), Terminal: logging.Terminal(os.Stdout),
				Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
			}
		},
		Kill:      remove(uninstall.Kill),
		Uninstall: remove(uninstall.Uninstall),
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

// remove finds the data directory that a running limpet was told of.
func remove(run func(context.Context, uninstall.Options) error) func(context.Context, io.Writer, cli.Removal) error {
	return func(ctx context.Context, w io.Writer, r cli.Removal) error {
		return run(ctx, uninstall.Options{DataDir: uninstall.DataDir(r.DataDir), Grace: r.Grace, KeepData: r.KeepData, Out: w})
	}
}

// untilSignal ends the context of run at the first SIGINT or SIGTERM. A second
// one has its default effect: the process ends at once. Other commands keep
// the default from the start, so that Ctrl-C ends a waiting kubectl.
//
// A run that says that it needs a restart is begun anew in place, with the same
// pid, unless a signal has come meanwhile. As the first process of a container,
// the run is that of a child.
func untilSignal[Config any](image restart.Image, run func(context.Context, Config) error) func(context.Context, Config) error {
	return func(ctx context.Context, cfg Config) error {
		if containerinit.Needed() {
			return containerinit.Run(os.Args, os.Environ(), slog.New(slog.NewTextHandler(os.Stderr, nil)).With("component", "init"))
		}
		ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop)
		err := run(ctx, cfg)
		if ctx.Err() != nil {
			return err
		}
		return image.IfNeeded(err)
	}
}
