package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/token"
	"github.com/limpetio/limpet/internal/token/tokensecret"
	"github.com/limpetio/limpet/internal/tokenctl"
)

// TokenActions are what `limpet token` does; see tokenctl.Control, which
// implements them.
type TokenActions interface {
	Create(ctx context.Context, in tokenctl.Create) error
	List(ctx context.Context, asJSON bool) error
	Delete(ctx context.Context, names []string) error
	Rotate(ctx context.Context, given token.Token) error
	Generate() error
}

func (a *App) tokenCommand() *cli.Command {
	cmd := &cli.Command{
		Name:            "token",
		Usage:           "Create, list, delete and rotate the tokens with which machines join",
		Description:     "Runs on the server's machine, as root. A token lets machines in and does nothing else; those that have joined need it no more.",
		HideHelpCommand: true,
		OnUsageError:    onUsageError,
		Action:          groupAction,
		Subcommands: []*cli.Command{
			a.tokenCreateCommand(),
			a.tokenLeaf(&cli.Command{
				Name: "list", Usage: "List the tokens, without their secrets",
				Description: "Expired tokens are listed for a day.",
				Flags:       []cli.Flag{outputFlag()},
			}, func(c *cli.Context, t TokenActions, _ []string) error {
				format, err := chosen(c, "output")
				if err != nil {
					return err
				}
				return t.List(c.Context, Format(format) == JSON)
			}, "For a script", "limpet token list -o json"),
			a.tokenLeaf(&cli.Command{
				Name: "delete", Usage: "Delete tokens; machines that have joined with them stay", ArgsUsage: "ID...",
			}, func(c *cli.Context, t TokenActions, ids []string) error { return t.Delete(c.Context, ids) },
				"One that limpet token list shows", "limpet token delete x7k2p9"),
			a.tokenRotateCommand(),
			a.tokenGenerateCommand(),
		},
	}
	cmd.CustomHelpTemplate = commandHelp(cmd, nil)
	return cmd
}

func (a *App) tokenCreateCommand() *cli.Command {
	var roles []string
	for _, r := range tokensecret.Roles() {
		roles = append(roles, string(r))
	}
	return a.tokenLeaf(&cli.Command{
		Name: "create", Usage: "Create a token and print it",
		Description: "The token can be used at once.",
		Flags: []cli.Flag{
			&ownFlag{StringFlag: &cli.StringFlag{Name: "ttl", Value: "24h", Usage: "How long it lets machines in, as 90m, 24h or 7d; 0: for ever."}, value: "TIME"},
			&ownFlag{StringFlag: &cli.StringFlag{Name: "description", Usage: "What it is for; limpet token list shows it."}, value: "TEXT"},
			&ownFlag{
				StringFlag: &cli.StringFlag{Name: "role", Value: string(tokensecret.Agent), Usage: "What machines may join as: agent or server (which cannot join yet)."},
				value:      "ROLE", choices: roles,
			},
			&cli.BoolFlag{Name: "print-join", Usage: "Print the command for the other machine, with the token in it."},
		},
	}, func(c *cli.Context, t TokenActions, _ []string) error {
		role, err := chosen(c, "role")
		if err != nil {
			return err
		}
		ttl, ok := parseTTL(c.String("ttl"))
		if !ok {
			return usagef(c, "flag --ttl: %q is not a time of at least five seconds, such as 90m, 24h or 7d, or 0", c.String("ttl"))
		}
		description := c.String("description")
		if len(description) > maxDescription || strings.ContainsAny(description, "\n\r\t") {
			return usagef(c, "flag --description: has to be one line of at most %d characters", maxDescription)
		}
		return t.Create(c.Context, tokenctl.Create{
			TTL: ttl, Description: description, Role: tokensecret.Role(role), PrintJoin: c.Bool("print-join"),
		})
	},
		"For the machines of today", "limpet token create --description 'shop 17'",
		"The command to type on the other machine", "limpet token create --ttl 1h --print-join",
		"Into a file, rather than through the clipboard", "(umask 077; limpet token create > token)",
	)
}

const (
	maxDescription = 200
	// minTTL lets the token be seen to work before it expires.
	minTTL = 5 * time.Second
)

// parseTTL reads a duration, which may be in days, too; "0" is for ever.
func parseTTL(text string) (time.Duration, bool) {
	if text == "0" {
		return 0, true
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.Atoi(days)
		return time.Duration(n) * 24 * time.Hour, err == nil && n > 0 && n <= 36500
	}
	d, err := time.ParseDuration(text)
	return d, err == nil && d >= minTTL
}

func (a *App) tokenRotateCommand() *cli.Command {
	return a.tokenLeaf(&cli.Command{
		Name: "rotate", Usage: "Replace the server's own token",
		Description: "The old one lets nobody in any more; machines that have joined stay, and other tokens, too. " +
			"If the configuration of the server names a token, put the new one there first: rotate takes it from there.",
		Flags: []cli.Flag{
			&ownFlag{StringFlag: &cli.StringFlag{Name: "token-file", Usage: "File that holds the new token; without it, a secret is generated."}, value: "FILE"},
			&ownFlag{StringFlag: &cli.StringFlag{Name: "token", Usage: "The new token. On a command line every user of the machine can read it: prefer token-file."}, value: "TOKEN"},
		},
	}, func(c *cli.Context, t TokenActions, _ []string) error {
		given, err := newToken(c)
		if err != nil {
			return err
		}
		return t.Rotate(c.Context, given)
	},
		"After somebody has left", "limpet token rotate",
		"To one of your own choice", "(umask 077; limpet token generate > new); limpet token rotate --token-file new",
	)
}

// newToken is the token that rotate was given; zero: none.
func newToken(c *cli.Context) (token.Token, error) {
	text, file := c.String("token"), c.String("token-file")
	switch {
	case text != "" && file != "":
		return token.Token{}, usagef(c, "--token and --token-file are both given; give one of them")
	case file != "":
		t, err := token.ReadFile(file)
		if err != nil {
			return token.Token{}, usagef(c, "flag --token-file: %w", err)
		}
		return t, nil
	case text != "":
		t, err := token.Parse(text)
		if err != nil {
			return token.Token{}, usagef(c, "flag --token: %w", err)
		}
		return t, nil
	}
	return token.Token{}, nil
}

// tokenGenerateCommand needs neither a server nor a configuration.
func (a *App) tokenGenerateCommand() *cli.Command {
	return leaf(&cli.Command{
		Name: "generate", HelpName: "limpet token generate", Usage: "Print a new token that no server knows yet",
		Description: "For setting it beforehand, as token or token-file of a new server and of its agents. It needs no server.",
		Action: func(c *cli.Context) error {
			return failed(c, a.Actions.Token(a.Stdout, config.Server{}).Generate())
		},
	},
		"For a server that is to be installed", "(umask 077; limpet token generate > token); limpet server --token-file $PWD/token",
	)
}

// tokenLeaf is a subcommand of which only where the server's data is can be
// given as a flag.
func (a *App) tokenLeaf(cmd *cli.Command, run func(c *cli.Context, t TokenActions, args []string) error, examples ...string) *cli.Command {
	actions := func(cfg config.Server) TokenActions { return a.Actions.Token(a.Stdout, cfg) }
	return managed(a, "token", []string{"config", "data-dir"}, cmd, actions, run, examples)
}
