package cli

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/logging"
)

// Removal is what `limpet kill` and `limpet uninstall` are to do.
type Removal struct {
	DataDir string
	// Grace is how long containers get to end by themselves.
	Grace time.Duration
	// KeepData: uninstall leaves the data directory and the configuration.
	KeepData bool
}

func (a *App) killCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:  "kill",
		Usage: "Stop limpet and all of its pods",
		Description: "Ends limpet, the containers and all that they have in the kernel: mounts, network interfaces, firewall tables, control groups. " +
			"Data and configuration stay, and the next start begins as after a reboot. What limpet did not create is left alone. " +
			"Can be run again at any time. Exits with 1 when something is left, and names it.",
		Flags: append([]cli.Flag{graceFlag()}, removalFlags()...),
		Action: func(c *cli.Context) error {
			r, err := a.removal(c)
			if err != nil {
				return err
			}
			return failed(c, a.Actions.Kill(c.Context, a.Stdout, r))
		},
	}, "Before a disk is taken out", "limpet kill")
}

func (a *App) uninstallCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:  "uninstall",
		Usage: "Remove limpet from this machine",
		Description: "Does what limpet kill does, and removes the data, the configuration and what install.sh installed; " +
			"kernel settings that limpet changed are set back. What limpet did not create is left alone. " +
			"Exits with 1 when something is left, and names it.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "keep-data", Usage: "Leave the data directory and /etc/limpet, for the next installation."},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "Do not ask."},
			graceFlag(),
		}, removalFlags()...),
		Action: func(c *cli.Context) error {
			r, err := a.removal(c)
			if err != nil {
				return err
			}
			r.KeepData = c.Bool("keep-data")
			if !c.Bool("yes") {
				if err := a.confirm(c, r); err != nil {
					return err
				}
			}
			return failed(c, a.Actions.Uninstall(c.Context, a.Stdout, r))
		},
	},
		"For a script", "limpet uninstall --yes",
		"Before another version is installed by hand", "limpet uninstall --keep-data",
	)
}

func graceFlag() cli.Flag {
	return &ownFlag{StringFlag: &cli.StringFlag{Name: "grace", Value: "10s", Usage: "How long containers get to end by themselves, as 30s or 1m."}, value: "TIME"}
}

func removalFlags() []cli.Flag {
	return config.Flags(config.Select(config.OptionsFor(config.ForBoth), "config", "data-dir"))
}

// removal is what is to be done. A configuration with mistakes in it is no reason
// to leave limpet running.
func (a *App) removal(c *cli.Context) (Removal, error) {
	grace, err := time.ParseDuration(c.String("grace"))
	if err != nil || grace < 0 {
		return Removal{}, usagef(c, "flag --grace: %q is not a time, such as 30s or 1m", c.String("grace"))
	}
	return Removal{DataDir: a.dataDir(c), Grace: grace}, nil
}

// dataDir is that of the configuration, also of one with mistakes in it.
func (a *App) dataDir(c *cli.Context) string {
	loaded, err := a.read(c, config.ForServer, config.Select(config.OptionsFor(config.ForBoth), "config", "data-dir"))
	dir := loaded.Server.DataDir
	if dir == "" {
		dir = config.DefaultDataDir
	}
	if err != nil && dir == config.DefaultDataDir {
		fmt.Fprintf(a.Stderr, "The configuration has mistakes (limpet config check tells); the data directory is taken to be %s\n", dir)
	}
	return dir
}

// confirm asks the person at the terminal.
func (a *App) confirm(c *cli.Context, r Removal) error {
	if !logging.Terminal(a.Stdin) {
		return usagef(c, "removes limpet with all its data; without a terminal to ask, it needs --yes")
	}
	what := "and all of its data in " + r.DataDir
	if r.KeepData {
		what = "but not its data in " + r.DataDir
	}
	return a.agreed(c, "This ends all pods of this machine and removes limpet, "+what+".")
}

// agreed asks the person at the terminal; anything but yes is an error.
func (a *App) agreed(c *cli.Context, what string) error {
	fmt.Fprintf(a.Stdout, "%s Go on? [y/N] ", what)
	answer, err := bufio.NewReader(a.Stdin).ReadString('\n')
	if err != nil && answer == "" {
		return failed(c, fmt.Errorf("read the answer: %w", err))
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return failed(c, errors.New("not confirmed; nothing was changed"))
}
