package cli

import (
	"context"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/nodectl"
	"github.com/limpetio/limpet/internal/noderecord"
)

// NodeActions are what `limpet node` does; see nodectl.Control, which
// implements them.
type NodeActions interface {
	List(ctx context.Context, asJSON bool) error
	Drain(ctx context.Context, name string, how nodectl.Drain) error
	Remove(ctx context.Context, name string, how nodectl.Drain) error
	Rejoin(ctx context.Context, name string, ttl time.Duration) error
}

func (a *App) nodeCommand() *cli.Command {
	cmd := &cli.Command{
		Name:            "node",
		Usage:           "List, drain and remove nodes, and let one rejoin that was set up anew",
		Description:     "Runs on the server's machine, as root.",
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Action:          groupAction,
		Subcommands: []*cli.Command{
			a.nodeLeaf(&cli.Command{
				Name: "list", Usage: "List the nodes: state, role, address, and when they were last seen",
				Flags: []cli.Flag{outputFlag()},
			}, func(c *cli.Context, n NodeActions, _ string) error {
				format, err := chosen(c, "output")
				if err != nil {
					return err
				}
				return n.List(c.Context, Format(format) == JSON)
			}, "For a script", "limpet node list -o json"),
			a.nodeLeaf(&cli.Command{
				Name: "drain", Usage: "Move a node's pods elsewhere and let no new ones come", ArgsUsage: "NODE",
				Description: "Disruption budgets are kept, and pods of DaemonSets stay. If a pod would be lost for good, nothing is done and it is named.",
				Flags:       drainFlags("Also end pods that nobody starts elsewhere, and go on when the node cannot be reached."),
			}, func(c *cli.Context, n NodeActions, name string) error {
				how, err := drainOf(c)
				if err != nil {
					return err
				}
				return n.Drain(c.Context, name, how)
			},
				"Before work on the machine", "limpet node drain shop-2",
				"And after it", "limpet kubectl uncordon shop-2",
			),
			a.nodeLeaf(&cli.Command{
				Name: "remove", Usage: "Take a node out of the cluster", ArgsUsage: "NODE",
				Description: "Drains it, unless it cannot be reached, deletes it, and frees its name. Says what is left to do on the machine.",
				Flags:       drainFlags("Do not drain it first: its pods are given up."),
			}, func(c *cli.Context, n NodeActions, name string) error {
				how, err := drainOf(c)
				if err != nil {
					return err
				}
				return n.Remove(c.Context, name, how)
			}, "A machine that is no more", "limpet node remove shop-2"),
			a.nodeLeaf(&cli.Command{
				Name: "rejoin", Usage: "Let a machine that was set up anew take its old name again", ArgsUsage: "NODE",
				Description: "A node's name belongs to the machine that joined with it, which proves that by a key on its disk. " +
					"When the disk was replaced or wiped, this lets the next machine with a valid token take the name, once.",
				Flags: []cli.Flag{&ownFlag{StringFlag: &cli.StringFlag{Name: "ttl", Value: "1h", Usage: "For how long, as 30m or 12h; at most 24h."}, value: "TIME"}},
			}, func(c *cli.Context, n NodeActions, name string) error {
				ttl, err := time.ParseDuration(c.String("ttl"))
				if err != nil || ttl < time.Minute || ttl > noderecord.MaxRejoin {
					return usagef(c, "flag --ttl: %q is not a time from 1m to 24h", c.String("ttl"))
				}
				return n.Rejoin(c.Context, name, ttl)
			}, "After its disk was replaced", "limpet node rejoin shop-2"),
		},
	}
	cmd.CustomHelpTemplate = commandHelp(cmd, nil)
	return cmd
}

func drainFlags(force string) []cli.Flag {
	return []cli.Flag{
		&ownFlag{StringFlag: &cli.StringFlag{Name: "timeout", Value: "5m", Usage: "How long draining may take; 0: for ever."}, value: "TIME"},
		&ownFlag{StringFlag: &cli.StringFlag{Name: "grace", Usage: "How long each pod gets to end, instead of what it says itself."}, value: "TIME"},
		&cli.BoolFlag{Name: "force", Usage: force},
		&cli.BoolFlag{Name: "delete-emptydir-data", Usage: "Also end pods with emptyDir volumes, whose data is lost."},
		&cli.BoolFlag{Name: "disable-eviction", Usage: "Delete pods instead of evicting them, whatever their disruption budgets say."},
	}
}

func drainOf(c *cli.Context) (nodectl.Drain, error) {
	how := nodectl.Drain{
		Grace: -1, Force: c.Bool("force"), DeleteEmptyDirData: c.Bool("delete-emptydir-data"), DisableEviction: c.Bool("disable-eviction"),
	}
	for _, f := range []struct {
		name string
		to   *time.Duration
	}{{"timeout", &how.Timeout}, {"grace", &how.Grace}} {
		text := c.String(f.name)
		if text == "" {
			continue
		}
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return how, usagef(c, "flag --%s: %q is not a time, such as 90s or 5m", f.name, text)
		}
		*f.to = d
	}
	return how, nil
}

// nodeLeaf is a subcommand of which only where the server's data is can be given
// as a flag. One with ArgsUsage takes one node.
func (a *App) nodeLeaf(cmd *cli.Command, run func(*cli.Context, NodeActions, string) error, examples ...string) *cli.Command {
	actions := func(cfg config.Server) NodeActions { return a.Actions.Node(a.Stdout, cfg) }
	return managed(a, "node", []string{"config", "data-dir"}, cmd, actions,
		func(c *cli.Context, n NodeActions, args []string) error {
			switch {
			case cmd.ArgsUsage == "":
				return run(c, n, "")
			case len(args) != 1 || args[0] == "":
				return usagef(c, "takes one node, but has %d arguments", len(args))
			}
			return run(c, n, args[0])
		}, examples)
}
