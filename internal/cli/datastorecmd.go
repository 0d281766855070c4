package cli

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/datastorectl"
)

// DatastoreActions are what `limpet snapshot` and `limpet datastore` do; see
// datastorectl.Control, which implements them.
type DatastoreActions interface {
	SaveSnapshot(ctx context.Context) error
	ListSnapshots(ctx context.Context, asJSON bool) error
	VerifySnapshots(ctx context.Context, names []string) error
	RestoreSnapshot(ctx context.Context, name string) error
	DeleteSnapshots(ctx context.Context, names []string) error
	ImportDatastore(ctx context.Context, in datastorectl.Import) error
	ExportDatastore(ctx context.Context, file, format string, replace bool) error
}

func (a *App) snapshotCommand() *cli.Command {
	cmd := &cli.Command{
		Name:            "snapshot",
		Usage:           "Take, list, verify, restore and delete snapshots of the datastore",
		Description:     "Snapshots are taken by schedule, too (--snapshot-schedule). The options are those of limpet server; put them into its config file, and both know them.",
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Action:          groupAction,
		Subcommands: []*cli.Command{
			a.datastoreLeaf("snapshot", &cli.Command{
				Name: "save", Usage: "Take a snapshot now",
				Description: "Asks the running server for it; without one, the files are read. It stays until it is deleted.",
			}, func(c *cli.Context, d DatastoreActions, _ []string) error { return d.SaveSnapshot(c.Context) },
				"Before something risky", "limpet snapshot save"),
			a.datastoreLeaf("snapshot", &cli.Command{
				Name: "list", Usage: "List the snapshots, newest first",
				Flags: []cli.Flag{outputFlag()},
			}, func(c *cli.Context, d DatastoreActions, _ []string) error {
				format, err := chosen(c, "output")
				if err != nil {
					return err
				}
				return d.ListSnapshots(c.Context, Format(format) == JSON)
			}, "For a script", "limpet snapshot list -o json"),
			a.datastoreLeaf("snapshot", &cli.Command{
				Name: "verify", Usage: "Prove that snapshots can be restored", ArgsUsage: "NAME|FILE...",
				Description: "Decompresses each and lets SQLite check all of it, in the space of the datastore.",
			}, func(c *cli.Context, d DatastoreActions, args []string) error {
				return d.VerifySnapshots(c.Context, args)
			},
				"A file from elsewhere", "limpet snapshot verify ./limpet-box-20261125T030000Z-4711.db.zst"),
			a.datastoreLeaf("snapshot", &cli.Command{
				Name: "restore", Usage: "Put a snapshot in the place of the datastore", ArgsUsage: "NAME|FILE",
				Description: "The server must be stopped. What was there before is kept aside. Revisions go on where no client has been, so that all of them list again.",
			}, func(c *cli.Context, d DatastoreActions, args []string) error {
				if len(args) != 1 {
					return usagef(c, "takes one snapshot, but has %d arguments", len(args))
				}
				return d.RestoreSnapshot(c.Context, args[0])
			}, "One that limpet snapshot list shows", "limpet snapshot restore limpet-box-20261125T030000Z-4711.db.zst"),
			a.datastoreLeaf("snapshot", &cli.Command{
				Name: "delete", Usage: "Delete snapshots, here and in the bucket", ArgsUsage: "NAME...",
			}, func(c *cli.Context, d DatastoreActions, args []string) error {
				return d.DeleteSnapshots(c.Context, args)
			},
				"One that is not needed any more", "limpet snapshot delete limpet-box-20261125T030000Z-4711.db.zst"),
		},
	}
	cmd.CustomHelpTemplate = commandHelp(cmd, nil)
	return cmd
}

func (a *App) datastoreCommand() *cli.Command {
	cmd := &cli.Command{
		Name:            "datastore",
		Usage:           "Take over the state of k3s or etcd, or hand it back",
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Action:          groupAction,
		Subcommands:     []*cli.Command{a.importCommand(), a.exportCommand()},
	}
	cmd.CustomHelpTemplate = commandHelp(cmd, nil)
	return cmd
}

func replaceFlag() cli.Flag {
	return &cli.BoolFlag{Name: "replace", Usage: "Put it in the place of what is there, which is kept under another name."}
}

func (a *App) importCommand() *cli.Command {
	text := func(name, value, usage string) cli.Flag {
		return &ownFlag{StringFlag: &cli.StringFlag{Name: name, Usage: usage}, value: value}
	}
	return a.datastoreLeaf("datastore", &cli.Command{
		Name: "import", Usage: "Make the datastore from that of k3s or etcd", ArgsUsage: "SOURCE",
		Description: "SOURCE is a state.db or the data directory of k3s, a snapshot of etcd, or the address of an etcd. Objects keep their revisions. The server must be stopped, and so should be who writes to the source.",
		Flags: []cli.Flag{
			replaceFlag(),
			text("cacert", "FILE", "Authority of an https:// address."),
			text("cert", "FILE", "Client certificate for it."),
			text("key", "FILE", "Key of the client certificate."),
			text("user", "NAME", "User name for it."),
			text("password-file", "FILE", "File that holds the password of the user."),
			text("prefix", "PREFIX", "Only keys that begin with it."),
		},
	}, func(c *cli.Context, d DatastoreActions, args []string) error {
		if len(args) != 1 {
			return usagef(c, "takes one source, but has %d arguments", len(args))
		}
		return d.ImportDatastore(c.Context, datastorectl.Import{
			Source: args[0], Replace: c.Bool("replace"), CAFile: c.String("cacert"), CertFile: c.String("cert"),
			KeyFile: c.String("key"), User: c.String("user"), PasswordFile: c.String("password-file"), Prefix: c.String("prefix"),
		})
	},
		"From k3s on this machine, stopped", "limpet datastore import /var/lib/rancher/k3s",
		"From an etcd", "limpet datastore import https://10.0.0.1:2379 --cacert ca.crt --cert client.crt --key client.key",
		"From a snapshot of etcd", "limpet datastore import ./etcd-snapshot.db",
	)
}

func (a *App) exportCommand() *cli.Command {
	return a.datastoreLeaf("datastore", &cli.Command{
		Name: "export", Usage: "Write the datastore for etcd or k3s", ArgsUsage: "FILE",
		Description: "FILE is a snapshot that `etcdutl snapshot restore` reads, or a state.db of kine, as k3s has it. The server may be running.",
		Flags: []cli.Flag{
			&ownFlag{
				StringFlag: &cli.StringFlag{Name: "format", Value: datastorectl.FormatEtcd, Usage: "What to write: etcd or kine."},
				value:      "FORMAT", choices: []string{datastorectl.FormatEtcd, datastorectl.FormatKine},
			},
			replaceFlag(),
		},
	}, func(c *cli.Context, d DatastoreActions, args []string) error {
		format, err := chosen(c, "format")
		if err != nil {
			return err
		}
		if len(args) != 1 {
			return usagef(c, "takes one file, but has %d arguments", len(args))
		}
		return d.ExportDatastore(c.Context, args[0], format, c.Bool("replace"))
	},
		"For etcd", "limpet datastore export ./etcd-snapshot.db",
		"For k3s", "limpet datastore export --format kine ./state.db",
	)
}

// datastoreLeaf is a subcommand of parent of which only what one may want to vary
// is a flag.
func (a *App) datastoreLeaf(parent string, cmd *cli.Command, run func(c *cli.Context, d DatastoreActions, args []string) error, examples ...string) *cli.Command {
	actions := func(cfg config.Server) DatastoreActions { return a.Actions.Datastore(a.Stdout, cfg) }
	return managed(a, parent, []string{"config", "data-dir", "snapshot-dir", "snapshot-s3"}, cmd, actions, run, examples)
}
