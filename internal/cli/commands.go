package cli

import (
	"errors"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
)

func (a *App) commands() []*cli.Command {
	return []*cli.Command{
		a.serverCommand(),
		a.agentCommand(),
		a.tokenCommand(),
		a.nodeCommand(),
		a.kubectlCommand(),
		a.ctrCommand(),
		a.statusCommand(),
		a.snapshotCommand(),
		a.datastoreCommand(),
		a.bundleCommand(),
		a.checkConfigCommand(),
		a.configCommand(),
		a.doctorCommand(),
		a.upgradeCommand(),
		a.rollbackCommand(),
		a.releaseCommand(),
		a.killCommand(),
		a.uninstallCommand(),
		a.verifyCommand(),
		a.versionCommand(),
		a.completionCommand(),
		a.helpCommand(),
	}
}

func (a *App) serverCommand() *cli.Command {
	opts := config.OptionsFor(config.ForServer)
	return leaf(&cli.Command{
		Name:        "server",
		Usage:       "Run a cluster: the control plane and a node in one process",
		Description: "Runs until SIGTERM or SIGINT. Containers keep running when it stops, and it takes them up again when it starts.",
		Flags:       config.Flags(opts),
		Action: func(c *cli.Context) error {
			loaded, err := a.valid(c, config.ForServer, opts)
			if err != nil {
				return err
			}
			return failed(c, a.Actions.Server(c.Context, loaded.Server))
		},
	},
		"A cluster on this machine", "limpet server",
		"With another data directory, and a name for the certificate", "limpet server --data-dir /data/limpet --tls-san shop-17.example.com",
		"Dual stack", "limpet server --cluster-cidr 10.42.0.0/16,fd00:42::/56 --service-cidr 10.43.0.0/16,fd00:43::/112",
		"What it would do, and why", "limpet config print --flannel-backend host-gw",
	)
}

func (a *App) agentCommand() *cli.Command {
	opts := config.OptionsFor(config.ForAgent)
	return leaf(&cli.Command{
		Name:        "agent",
		Usage:       "Run a node that joins a server",
		Description: "Runs until SIGTERM or SIGINT. Containers keep running when it stops, and it takes them up again when it starts.",
		Flags:       config.Flags(opts),
		Action: func(c *cli.Context) error {
			loaded, err := a.valid(c, config.ForAgent, opts)
			if err != nil {
				return err
			}
			return failed(c, a.Actions.Agent(c.Context, loaded.Agent()))
		},
	},
		"Join a server", "limpet agent --server https://10.0.0.5:6443 --token-file /etc/limpet/token",
	)
}

func (a *App) kubectlCommand() *cli.Command {
	cmd := &cli.Command{
		Name:            "kubectl",
		Usage:           "Run kubectl, with the cluster of this machine unless KUBECONFIG is set",
		ArgsUsage:       "[arguments of kubectl]",
		SkipFlagParsing: true,
		HideHelp:        true, // --help is kubectl's
		Action: func(c *cli.Context) error {
			if err := a.defaultKubeconfig(); err != nil {
				return failed(c, err)
			}
			return failed(c, a.Actions.Kubectl(c.Context, c.Args().Slice()))
		},
	}
	cmd.CustomHelpTemplate = commandHelp(cmd, []string{"Its own help", "limpet kubectl --help"})
	return cmd
}

// defaultKubeconfig points kubectl, and the plug-ins it starts, at the admin
// kubeconfig where the server's configuration puts it, if it may be read.
func (a *App) defaultKubeconfig() error {
	if v, ok := a.LookupEnv("KUBECONFIG"); ok && v != "" {
		return nil
	}
	// A broken configuration, or one for an agent, is no concern of kubectl's.
	loaded, _ := config.Load(config.Input{Command: config.ForServer, LookupEnv: a.LookupEnv, DefaultFile: a.DefaultConfigFile})
	path := loaded.Server.WriteKubeconfig
	if path == "" {
		path = config.DefaultKubeconfig
	}
	f, err := os.Open(path)
	if err != nil {
		return nil //nolint:nilerr // not to be read: kubectl's own defaults hold
	}
	return errors.Join(f.Close(), a.Setenv("KUBECONFIG", path))
}

func (a *App) ctrCommand() *cli.Command {
	cmd := &cli.Command{
		Name:            "ctr",
		Usage:           "Run ctr, containerd's client, with the containerd of this machine",
		ArgsUsage:       "[arguments of ctr]",
		SkipFlagParsing: true,
		HideHelp:        true,
		Action: func(c *cli.Context) error {
			return failed(c, a.Actions.Ctr(c.Context, c.Args().Slice()))
		},
	}
	cmd.CustomHelpTemplate = commandHelp(cmd, []string{"Its own help", "limpet ctr --help"})
	return cmd
}

func (a *App) statusCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:        "status",
		Usage:       "Show what the limpet of this machine is doing",
		Description: "Shows each component with its state and history, as the running limpet records them.",
		Flags:       []cli.Flag{outputFlag()},
		Action: func(c *cli.Context) error {
			format, err := chosen(c, "output")
			if err != nil {
				return err
			}
			return failed(c, a.Actions.Status(c.Context, a.Stdout, Format(format)))
		},
	},
		"For a script", "limpet status -o json",
	)
}

func (a *App) checkConfigCommand() *cli.Command {
	opts := config.OptionsFor(config.ForBoth)
	flags := config.Select(opts, "config", "data-dir")
	return leaf(&cli.Command{
		Name:        "check-config",
		Usage:       "Check whether this machine can run limpet",
		Description: "Looks at the kernel, cgroups, modules, capabilities, disk, memory and clock. Changes nothing. Exits with 1 when something required is missing.",
		Flags:       append(config.Flags(flags), forFlag()),
		Action: func(c *cli.Context) error {
			loaded, err := a.load(c, opts)
			if err != nil {
				return err
			}
			return failed(c, a.Actions.CheckConfig(c.Context, a.Stdout, loaded.Server.Node))
		},
	},
		"Before the first start", "limpet check-config",
	)
}

func (a *App) helpCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:      "help",
		Usage:     "Show help of a command",
		ArgsUsage: "[COMMAND [SUBCOMMAND]]",
		Action: func(c *cli.Context) error {
			parent := c.Lineage()[1]
			for _, word := range c.Args().Slice() {
				cmd := parent.Command.Command(word)
				if cmd == nil {
					return usagef(c, "there is no command %q", word)
				}
				parent = cli.NewContext(c.App, nil, parent)
				parent.Command = cmd
			}
			return cli.ShowSubcommandHelp(parent)
		},
	})
}
