// Package cli is the command line of limpet: it parses, loads and validates,
// and hands the work to the Actions it was given.
package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
)

// Actions are what the commands do. Each one returns nil, or an error that is
// printed; an error with a method ExitCode() int decides the exit code too.
type Actions struct {
	// Server and Agent get a completed and validated configuration and run until ctx is done.
	Server func(ctx context.Context, cfg config.Server) error
	Agent  func(ctx context.Context, cfg config.Agent) error
	// Kubectl and Ctr get the arguments after their name, untouched.
	Kubectl func(ctx context.Context, args []string) error
	Ctr     func(ctx context.Context, args []string) error
	// CheckConfig gets a completed configuration, which is not validated.
	CheckConfig func(ctx context.Context, w io.Writer, cfg config.Node) error
	// CheckArguments says what is wrong with the arguments for upstream's components
	// in a completed and validated configuration.
	CheckArguments func(loaded *config.Loaded) error
	// Datastore works on the datastore of a completed and validated configuration.
	Datastore func(w io.Writer, cfg config.Server) DatastoreActions
	// Bundle works on bundles; the configuration is completed and validated, except
	// for creating one, which needs none.
	Bundle func(w io.Writer, cfg config.Server) BundleActions
	// Token manages the tokens of the server with a completed and validated configuration.
	Token func(w io.Writer, cfg config.Server) TokenActions
	// Node manages the nodes of the server with a completed and validated configuration.
	Node func(w io.Writer, cfg config.Server) NodeActions
	// Status prints what the limpet of this machine says of itself.
	Status func(ctx context.Context, w io.Writer, format Format) error
	// Kill ends all that limpet has running; Uninstall removes it from the machine.
	Kill, Uninstall func(ctx context.Context, w io.Writer, r Removal) error
	// Release manages what a server gives to agents.
	Release func(w io.Writer, cfg config.Server) ReleaseActions
	// Upgrade goes to other versions of limpet, with the data directory of this one.
	Upgrade func(w io.Writer, dataDir string) UpgradeActions
	// Doctor writes the support archive.
	Doctor func(ctx context.Context, w io.Writer, e Examination) error
}

// Format is how a command prints: for people or for programs.
type Format string

// The formats.
const (
	Text Format = "text"
	JSON Format = "json"
)

// App runs the commands. The fields other than Actions are the process's own
// (os.Stdout and so on) unless a test replaces them.
type App struct {
	Actions           Actions
	Stdin             *os.File
	Stdout, Stderr    io.Writer
	LookupEnv         func(string) (string, bool)
	Setenv            func(key, value string) error
	Hostname          func() (string, error)
	DefaultConfigFile string
}

// New returns an App on the process's own streams and environment.
func New(actions Actions) *App {
	return &App{
		Actions:           actions,
		Stdin:             os.Stdin,
		Stdout:            os.Stdout,
		Stderr:            os.Stderr,
		LookupEnv:         os.LookupEnv,
		Setenv:            os.Setenv,
		Hostname:          os.Hostname,
		DefaultConfigFile: config.DefaultConfigFile,
	}
}

// Run runs one command line, argv[0] included, prints its error if it has one,
// and returns the exit code: ExitOK, ExitFailure or ExitUsage. When argv[0] is
// kubectl or ctr, as through a symlink, it is that command.
func (a *App) Run(ctx context.Context, argv []string) int {
	if len(argv) == 0 {
		argv = []string{"limpet"}
	}
	if name := filepath.Base(argv[0]); name == "kubectl" || name == "ctr" {
		argv = append([]string{"limpet", name}, argv[1:]...)
	}
	app := a.urfave()
	if words, ok := completionRequest(argv); ok {
		writeCandidates(a.Stdout, complete(app, words))
		return ExitOK
	}
	return a.report(app.RunContext(ctx, argv))
}

// urfave builds the commands table.
func (a *App) urfave() *cli.App {
	app := &cli.App{
		Name:            "limpet",
		HelpName:        "limpet",
		Usage:           "Kubernetes for the edge in one binary",
		Description:     "One static binary that is a whole Kubernetes cluster: control plane, container runtime, network and DNS.",
		Writer:          a.Stdout,
		ErrWriter:       a.Stderr,
		HideVersion:     true, // its flag would take -v
		HideHelpCommand: true, // ours exits with the right code
		// Errors are reported once, by Run, and nothing exits the process on the way.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   onUsageError,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "version", Usage: "Print the version."},
			cli.HelpFlag, // cli adds it only together with its own help command
		},
		Commands: a.commands(),
	}
	app.Action = func(c *cli.Context) error {
		if c.Bool("version") {
			return a.printVersion(Text)
		}
		return groupAction(c)
	}
	app.CustomAppHelpTemplate = appHelp(app)
	return app
}

// groupAction answers a command that only holds others: alone it prints help.
func groupAction(c *cli.Context) error {
	if !c.Args().Present() {
		return cli.ShowSubcommandHelp(c)
	}
	var known []string
	for _, sub := range c.Command.Subcommands {
		known = append(known, sub.Name)
	}
	word := c.Args().First()
	return usagef(c, "unknown command %q%s", word, meant(config.Suggest(word, known)))
}

// leaf finishes a command that does something: help, usage errors, and no
// arguments beside flags unless argsUsage names them.
func leaf(cmd *cli.Command, examples ...string) *cli.Command {
	cmd.HideHelpCommand = true
	cmd.OnUsageError = onUsageError
	cmd.CustomHelpTemplate = commandHelp(cmd, examples)
	if action := cmd.Action; cmd.ArgsUsage == "" {
		cmd.Action = func(c *cli.Context) error {
			if c.Args().Present() {
				return unexpectedArgument(c)
			}
			return action(c)
		}
	}
	return cmd
}

func unexpectedArgument(c *cli.Context) error {
	word := c.Args().First()
	hint := ""
	if word == "true" || word == "false" {
		hint = "; a value of a switch is joined with =, as in --debug=" + word
	}
	return usagef(c, "takes no arguments, but has %q%s", word, hint)
}

// commandName is the command as typed: limpet config print.
func commandName(c *cli.Context) string {
	var names []string
	for _, ctx := range c.Lineage() {
		if ctx.Command != nil && ctx.Command.Name != "" {
			names = append([]string{ctx.Command.Name}, names...)
		}
	}
	return strings.Join(names, " ")
}
