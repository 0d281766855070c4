package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/version"
)

// ReleaseActions are what `limpet release` does; see releases.Control, which
// implements them.
type ReleaseActions interface {
	Add(ctx context.Context, sources []string, arch, publicKey string) error
	List(ctx context.Context) error
}

func (a *App) releaseCommand() *cli.Command {
	actions := func(cfg config.Server) ReleaseActions { return a.Actions.Release(a.Stdout, cfg) }
	options := []string{"config", "data-dir"}
	archs := []string{"amd64", "arm64", "arm"}
	cmd := &cli.Command{
		Name:            "release",
		Usage:           "The releases that this server gives to agents that an UpgradePlan upgrades",
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Action:          groupAction,
		Subcommands: []*cli.Command{
			managed(a, "release", options, &cli.Command{
				Name: "add", Usage: "Keep a release for agents of another architecture than this server's",
				ArgsUsage:   "FILE|URL…",
				Description: "Verifies the signature. Of this server's own architecture nothing has to be added: agents get the binary that it runs.",
				Flags: []cli.Flag{
					&ownFlag{StringFlag: &cli.StringFlag{Name: "arch", Usage: "amd64, arm64 or arm; by default that in the name of the file."}, value: "ARCH"},
					&ownFlag{StringFlag: &cli.StringFlag{Name: "public-key", Value: version.PublicKey, Usage: "Minisign public key to trust; by default the one that this binary was built with."}, value: "KEY"},
				},
			}, actions, func(c *cli.Context, r ReleaseActions, args []string) error {
				if arch := c.String("arch"); arch != "" && !slices.Contains(archs, arch) {
					return usagef(c, "flag --arch: %q is none of %s", arch, strings.Join(archs, ", "))
				}
				return r.Add(c.Context, args, c.String("arch"), c.String("public-key"))
			}, []string{"For arm64 boxes", "limpet release add limpet-airgap-arm64.tar.zst"}),
			managed(a, "release", options, &cli.Command{
				Name: "list", Usage: "Show for which architectures agents can get the version of this server",
			}, actions, func(c *cli.Context, r ReleaseActions, _ []string) error {
				return r.List(c.Context)
			}, nil),
		},
	}
	cmd.CustomHelpTemplate = commandHelp(cmd, nil)
	return cmd
}
