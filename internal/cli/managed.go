package cli

import (
	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
)

// managed is a subcommand of parent that has the configuration of limpet server,
// of which the named options are flags. One with ArgsUsage needs an argument;
// flags may stand between arguments.
func managed[T any](a *App, parent string, options []string, cmd *cli.Command,
	actions func(config.Server) T, run func(*cli.Context, T, []string) error, examples []string,
) *cli.Command {
	own := config.Select(config.OptionsFor(config.ForServer), options...)
	cmd.HelpName = "limpet " + parent + " " + cmd.Name // cli knows it only when the parent runs, not for limpet help
	wantsArgs := cmd.ArgsUsage != ""
	cmd.Flags = append(cmd.Flags, config.Flags(own)...)
	cmd.Action = func(c *cli.Context) error {
		args, err := interspersed(c)
		if err != nil {
			return err
		}
		if wantsArgs && len(args) == 0 {
			return usagef(c, "needs %s", cmd.ArgsUsage)
		}
		loaded, err := a.valid(c, config.ForServer, own)
		if err != nil {
			return err
		}
		return failed(c, run(c, actions(loaded.Server), args))
	}
	return leaf(cmd, examples...)
}
