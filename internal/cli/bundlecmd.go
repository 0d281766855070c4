package cli

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/bundle"
	"github.com/limpetio/limpet/internal/config"
)

// BundleActions are what `limpet bundle` does; see bundle.Control, which
// implements them.
type BundleActions interface {
	Create(ctx context.Context, r bundle.Recipe) error
	Verify(ctx context.Context, file, publicKey string) error
	List(ctx context.Context, file, publicKey string, asJSON bool) error
	Install(ctx context.Context, file, publicKey string) error
}

// listFlag is a flag of a command's own that may be given several times.
type listFlag struct {
	*cli.StringSliceFlag
	value string // its name in help
}

func (a *App) bundleCommand() *cli.Command {
	cmd := &cli.Command{
		Name:            "bundle",
		Usage:           "Carry images and manifests to a site in one file",
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Action:          groupAction,
		Subcommands: []*cli.Command{
			a.bundleCreateCommand(),
			a.bundleLeaf(&cli.Command{
				Name: "verify", Usage: "Check a bundle's checksums, and its signature with --public-key",
				Description: "Reads all of FILE and changes nothing. Exits with 1 when anything does not match.",
			}, func(c *cli.Context, b BundleActions, file string) error {
				return b.Verify(c.Context, file, c.String("public-key"))
			}, "After copying", "limpet bundle verify site.bundle.tar"),
			a.bundleLeaf(&cli.Command{
				Name: "list", Usage: "Show what is in a bundle",
				Description: "Reads only the table of contents; limpet bundle verify reads the rest.",
				Flags:       []cli.Flag{outputFlag()},
			}, func(c *cli.Context, b BundleActions, file string) error {
				format, err := chosen(c, "output")
				if err != nil {
					return err
				}
				return b.List(c.Context, file, c.String("public-key"), Format(format) == JSON)
			}, "For a script", "limpet bundle list -o json site.bundle.tar"),
			a.bundleLeaf(&cli.Command{
				Name: "install", Usage: "Verify a bundle and install it on this machine",
				Description: "Everything is verified before anything is changed. Imports only what is missing into the running containerd and pins the images; on a server, puts the manifests into its directory of manifests. May be repeated, also after an interruption.",
			}, func(c *cli.Context, b BundleActions, file string) error {
				return b.Install(c.Context, file, c.String("public-key"))
			}, "Only from those who have the key", "limpet bundle install site.bundle.tar --public-key RWQ…"),
		},
	}
	cmd.CustomHelpTemplate = commandHelp(cmd, nil)
	return cmd
}

func (a *App) bundleCreateCommand() *cli.Command {
	text := func(name, value, usage string, aliases ...string) cli.Flag {
		return &ownFlag{StringFlag: &cli.StringFlag{Name: name, Aliases: aliases, Usage: usage}, value: value}
	}
	list := func(name, value, usage string) cli.Flag {
		return &listFlag{StringSliceFlag: &cli.StringSliceFlag{Name: name, Usage: usage}, value: value}
	}
	var charts []bundle.ChartSource
	cmd := &cli.Command{
		Name: "create", Usage: "Make a bundle",
		Description: "Images come from registries, with the credentials of docker login, or from archives (docker save, limpet ctr images export). When it was interrupted, the same command goes on where it was.",
		Flags: []cli.Flag{
			list("image", "REF|FILE", "An image, or an archive of images; may be repeated."),
			list("manifest", "FILE", "A manifest for Kubernetes; may be repeated."),
			&cli.BoolFlag{Name: "images-from-manifests", Usage: "Add the images that pods in the manifests and charts name."},
			text("platform", "OS/ARCH", "Of the images, as in linux/arm64; by default that of this machine."),
			text("name", "NAME", "Directory of the manifests on the server; by default from the file's name."),
			text("signing-key", "FILE", "Minisign secret key without a password (minisign -G -W)."),
			text("output", "FILE", "The bundle to write.", "o"),
		},
		Action: func(c *cli.Context) error {
			if c.String("output") == "" {
				return usagef(c, "needs --output FILE")
			}
			if len(c.StringSlice("image"))+len(c.StringSlice("manifest"))+len(charts) == 0 {
				return usagef(c, "needs --image, --manifest or --chart")
			}
			return failed(c, a.Actions.Bundle(a.Stdout, config.Server{}).Create(c.Context, bundle.Recipe{
				Images: c.StringSlice("image"), Manifests: c.StringSlice("manifest"), Charts: charts,
				ImagesFromManifests: c.Bool("images-from-manifests"), Platform: c.String("platform"),
				Name: c.String("name"), Output: c.String("output"), SigningKey: c.String("signing-key"),
			}))
		},
	}
	cmd.Flags = append(cmd.Flags, chartFlags(&charts)...)
	cmd.HelpName = "limpet bundle create" // cli knows it only when the parent runs
	return leaf(cmd,
		"From a registry, for an arm64 box", "limpet bundle create --image ghcr.io/acme/pos:1.4 --platform linux/arm64 -o site.bundle.tar",
		"All that a manifest needs, signed", "limpet bundle create --manifest pos.yaml --images-from-manifests --signing-key site.key -o s.tar",
		"A Helm chart with its images", "limpet bundle create --chart ./pos --values shop.yaml --images-from-manifests -o s.tar",
	)
}

// bundleLeaf is a subcommand that works on one bundle.
func (a *App) bundleLeaf(cmd *cli.Command, run func(c *cli.Context, b BundleActions, file string) error, examples ...string) *cli.Command {
	cmd.ArgsUsage = "FILE"
	cmd.Flags = append(cmd.Flags, &ownFlag{
		StringFlag: &cli.StringFlag{Name: "public-key", Usage: "Minisign public key with which the bundle must be signed."}, value: "KEY",
	})
	actions := func(cfg config.Server) BundleActions { return a.Actions.Bundle(a.Stdout, cfg) }
	return managed(a, "bundle", []string{"config", "data-dir"}, cmd, actions, func(c *cli.Context, b BundleActions, args []string) error {
		if len(args) != 1 {
			return usagef(c, "takes one file, but has %d arguments", len(args))
		}
		return run(c, b, args[0])
	}, examples)
}
