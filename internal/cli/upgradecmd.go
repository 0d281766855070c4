package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/upgrade"
	"github.com/limpetio/limpet/internal/version"
)

// UpgradeActions are what `limpet upgrade` and `limpet rollback` do; see
// upgrade.Control, which implements them.
type UpgradeActions interface {
	Upgrade(ctx context.Context, o upgrade.Options) error
	WayBack(ctx context.Context, withData bool) (upgrade.Way, error)
	Rollback(ctx context.Context, withData bool, timeout time.Duration) error
	Guard(ctx context.Context, detach bool) error
}

func (a *App) upgradeCommand() *cli.Command {
	text := func(name, value, deflt, usage string) cli.Flag {
		return &ownFlag{StringFlag: &cli.StringFlag{Name: name, Value: deflt, Usage: usage}, value: value}
	}
	cmd := leaf(&cli.Command{
		Name:  "upgrade",
		Usage: "Replace the limpet of this machine by another version, with a way back",
		Description: "Verifies the signature, saves the datastore, replaces the binary and restarts limpet; pods go on. " +
			"If the new version is not healthy in time, the previous one and its data come back by themselves, also after a power cut. " +
			"SOURCE is a version, a URL or a file: an air-gap archive, or limpet-ARCH with version and signed checksums beside it. " +
			"Ending this command does not end the upgrade. Exit codes 30 to 37: nothing was begun; 40: it failed, and the previous version is back.",
		Flags: append([]cli.Flag{
			text("to", "SOURCE", "", "Version, URL or file to go to."),
			timeoutFlag(),
			&cli.BoolFlag{Name: "force", Usage: "Go back, or leave out, a minor version of Kubernetes all the same."},
			text("public-key", "KEY", version.PublicKey, "Minisign public key to trust; by default the one that this binary was built with."),
			text("release-url", "URL", "", "Where versions are published; by default where limpet's are."),
		}, removalFlags()...),
		Action: func(c *cli.Context) error {
			if c.String("to") == "" {
				return usagef(c, "needs --to: a version, a URL or a file")
			}
			timeout, err := upgradeTimeout(c)
			if err != nil {
				return err
			}
			actions := a.upgradeActions(c)
			return failed(c, actions.Upgrade(c.Context, upgrade.Options{
				Source: c.String("to"), BaseURL: c.String("release-url"), PublicKey: c.String("public-key"),
				Timeout: timeout, Force: c.Bool("force"),
			}))
		},
	},
		"To a version", "limpet upgrade --to v1.2.3",
		"Without a network, from a carried file", "limpet upgrade --to ./limpet-airgap-amd64.tar.zst",
	)
	cmd.Subcommands = []*cli.Command{a.guardCommand()}
	return cmd
}

// guardCommand is what the service limpet-upgrade-guard runs.
func (a *App) guardCommand() *cli.Command {
	cmd := &cli.Command{
		Name:     "guard",
		HelpName: "limpet upgrade guard",
		Hidden:   true,
		Usage:    "Go on with the upgrade that is under way; limpet starts this by itself",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "detach", Usage: "Go on in the background."},
		}, removalFlags()...),
		Action: func(c *cli.Context) error {
			actions := a.upgradeActions(c)
			return failed(c, actions.Guard(c.Context, c.Bool("detach")))
		},
	}
	return leaf(cmd)
}

func (a *App) rollbackCommand() *cli.Command {
	return leaf(&cli.Command{
		Name:  "rollback",
		Usage: "Go back to the version of before the newest limpet upgrade",
		Description: "Brings the previous binary back and, on a server, the datastore as it was before the upgrade; what has changed in the cluster since is lost, " +
			"though the newer datastore is kept aside. If the previous version is not healthy in time, all is as now again.",
		Flags: append([]cli.Flag{
			&cli.BoolFlag{Name: "no-snapshot", Usage: "Leave the data as it is now."},
			timeoutFlag(),
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "Do not ask."},
		}, removalFlags()...),
		Action: func(c *cli.Context) error {
			timeout, err := upgradeTimeout(c)
			if err != nil {
				return err
			}
			actions := a.upgradeActions(c)
			withData := !c.Bool("no-snapshot")
			way, err := actions.WayBack(c.Context, withData)
			if err != nil {
				return failed(c, err)
			}
			if !c.Bool("yes") {
				if err := a.confirmRollback(c, way); err != nil {
					return err
				}
			}
			return failed(c, actions.Rollback(c.Context, withData, timeout))
		},
	},
		"With the data of before", "limpet rollback",
		"With the data of now", "limpet rollback --no-snapshot --yes",
	)
}

// confirmRollback tells what is lost.
func (a *App) confirmRollback(c *cli.Context, way upgrade.Way) error {
	what := fmt.Sprintf("This goes back from limpet %s to %s; pods go on.", way.Now.Version, way.Back.Version)
	if way.Snapshot != "" {
		what = fmt.Sprintf("This goes back from limpet %s to %s, and the cluster to what it was before that upgrade, which ended on %s. "+
			"Objects that were made, changed or deleted since are lost, and the pods of new ones end.",
			way.Now.Version, way.Back.Version, way.Since.Local().Format(time.DateTime))
	}
	if !logging.Terminal(a.Stdin) {
		return usagef(c, "%s Without a terminal to ask, it needs --yes", what)
	}
	return a.agreed(c, what)
}

func timeoutFlag() cli.Flag {
	return &ownFlag{
		StringFlag: &cli.StringFlag{Name: "timeout", Value: "5m", Usage: "How long limpet may take to become healthy, as 90s or 10m."},
		value:      "TIME",
	}
}

func upgradeTimeout(c *cli.Context) (time.Duration, error) {
	d, err := time.ParseDuration(c.String("timeout"))
	if err != nil || d < time.Second {
		return 0, usagef(c, "flag --timeout: %q is not a time of a second or more, such as 90s or 10m", c.String("timeout"))
	}
	return d, nil
}

// upgradeActions works on the data directory of the configuration.
func (a *App) upgradeActions(c *cli.Context) UpgradeActions {
	return a.Actions.Upgrade(a.Stdout, a.dataDir(c))
}
