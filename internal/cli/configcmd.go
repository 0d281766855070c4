package cli

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
)

func (a *App) configCommand() *cli.Command {
	cmd := &cli.Command{
		Name:            "config",
		Usage:           "Show or check the configuration",
		Description:     "Takes the same flags, environment and files as limpet server (or limpet agent, with --for agent).",
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Action:          groupAction,
		Subcommands:     []*cli.Command{a.configPrintCommand(), a.configCheckCommand()},
	}
	cmd.CustomHelpTemplate = commandHelp(cmd, nil)
	return cmd
}

func (a *App) configPrintCommand() *cli.Command {
	opts := config.Options()
	return leaf(&cli.Command{
		Name:        "print",
		HelpName:    "limpet config print", // cli knows it only when config runs, not for limpet help
		Usage:       "Print the effective configuration and where each value comes from",
		Description: "The output is a config file; secrets are left out.",
		Flags:       append([]cli.Flag{forFlag()}, config.Flags(opts)...),
		Action: func(c *cli.Context) error {
			loaded, err := a.validChosen(c, opts)
			if err != nil {
				return err
			}
			return failed(c, loaded.Print(a.Stdout))
		},
	},
		"What limpet server would run with", "limpet config print",
		"What a flag would change", "limpet config print --service-cidr 10.96.0.0/16",
	)
}

func (a *App) configCheckCommand() *cli.Command {
	opts := config.Options()
	return leaf(&cli.Command{
		Name:        "check",
		HelpName:    "limpet config check", // cli knows it only when config runs, not for limpet help
		Usage:       "Check the configuration and report every problem",
		Description: "The arguments for upstream's components are checked, too. Starts and changes nothing.\nExits with 2 when there is a problem.",
		Flags:       append([]cli.Flag{forFlag()}, config.Flags(opts)...),
		Action: func(c *cli.Context) error {
			loaded, err := a.validChosen(c, opts)
			if err != nil {
				return err
			}
			if err := a.Actions.CheckArguments(loaded); err != nil {
				return &usageError{command: commandName(c), err: err}
			}
			_, err = fmt.Fprintf(a.Stdout, "The configuration of %s is valid.\n", loaded.Command)
			return failed(c, err)
		},
	},
		"A file before it is put in place", "limpet config check --config ./new.yaml",
		"The configuration of an agent", "limpet config check --for agent",
	)
}

// load puts the configuration of the command that --for names together, and
// completes it, without validating it.
func (a *App) load(c *cli.Context, opts []config.Option) (*config.Loaded, error) {
	name, err := chosen(c, "for")
	if err != nil {
		return nil, err
	}
	command := config.ForServer
	if name == "agent" {
		command = config.ForAgent
	}
	loaded, err := a.read(c, command, opts)
	if err != nil {
		return nil, &usageError{command: commandName(c), err: err}
	}
	return loaded, nil
}

// validChosen is valid for the command that --for names.
func (a *App) validChosen(c *cli.Context, opts []config.Option) (*config.Loaded, error) {
	name, err := chosen(c, "for")
	if err != nil {
		return nil, err
	}
	if name == "agent" {
		return a.valid(c, config.ForAgent, opts)
	}
	return a.valid(c, config.ForServer, opts)
}

// valid is the completed, validated configuration, or an error with all its problems.
func (a *App) valid(c *cli.Context, command config.Command, opts []config.Option) (*config.Loaded, error) {
	loaded, err := a.read(c, command, opts)
	if err := errors.Join(err, loaded.Validate()); err != nil {
		return nil, &usageError{command: commandName(c), err: err}
	}
	return loaded, nil
}

// read loads and completes. The Loaded is there even when there is an error.
func (a *App) read(c *cli.Context, command config.Command, opts []config.Option) (*config.Loaded, error) {
	loaded, err := config.Load(config.Input{
		Command:     command,
		Flags:       config.FlagValues(c, opts),
		LookupEnv:   a.LookupEnv,
		DefaultFile: a.DefaultConfigFile,
	})
	return loaded, errors.Join(err, loaded.Complete(a.Hostname))
}
