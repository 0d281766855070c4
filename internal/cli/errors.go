package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
)

// Exit codes.
const (
	ExitOK      = 0
	ExitFailure = 1 // the command ran and failed
	ExitUsage   = 2 // wrong flags or configuration; nothing was started
)

// usageError is wrong input: the command did not run.
type usageError struct {
	command string // limpet server
	err     error
}

func (e *usageError) Error() string {
	list := config.Problems(e.err)
	if len(list) == 1 {
		return fmt.Sprintf("%s: %v", e.command, list[0])
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d problems:", e.command, len(list))
	for _, p := range list {
		fmt.Fprintf(&b, "\n  %v", p)
	}
	return b.String()
}

func (e *usageError) Unwrap() error { return e.err }
func (e *usageError) ExitCode() int { return ExitUsage }
func (e *usageError) hint() string  { return "See " + e.command + " --help" }

func usagef(c *cli.Context, format string, args ...any) error {
	return &usageError{command: commandName(c), err: fmt.Errorf(format, args...)}
}

// failure is the error of a command that ran.
type failure struct {
	command string
	err     error
}

func (e *failure) Error() string { return fmt.Sprintf("%s: %v", e.command, e.err) }
func (e *failure) Unwrap() error { return e.err }

func failed(c *cli.Context, err error) error {
	if err == nil {
		return nil
	}
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		return err // names the command already
	}
	return &failure{command: commandName(c), err: err}
}

// report prints err and returns its exit code.
func (a *App) report(err error) int {
	if err == nil {
		return ExitOK
	}
	if f := (*failure)(nil); !errors.As(err, &f) || f.err.Error() != "" {
		fmt.Fprintln(a.Stderr, err)
	}
	if u := (*usageError)(nil); errors.As(err, &u) {
		fmt.Fprintln(a.Stderr, u.hint())
	}
	if coder := interface{ ExitCode() int }(nil); errors.As(err, &coder) {
		return coder.ExitCode()
	}
	return ExitFailure
}

// onUsageError turns the messages of package flag into ours. They are its only
// interface: it has no error types.
func onUsageError(c *cli.Context, err error, _ bool) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		return unknownFlag(c, name)
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return usagef(c, "flag %s needs a value", dashes(name))
	}
	return usagef(c, "%s", text)
}

func unknownFlag(c *cli.Context, name string) error {
	var known []string
	for _, f := range c.Command.Flags {
		info := flagInfoOf(f)
		if o := info.option; o == nil || o.Name != "v" { // one letter away from every letter
			known = append(known, info.names[0])
		}
	}
	for _, o := range config.Options() {
		if command := config.ForServer | config.ForAgent; o.Name == name && o.Commands != command && isNodeCommand(c.Command) {
			return usagef(c, "%s is a flag of %s", dashes(name), o.Commands)
		}
	}
	suggestion := config.Suggest(name, known)
	if suggestion != "" {
		suggestion = dashes(suggestion)
	}
	return usagef(c, "unknown flag %s%s", dashes(name), meant(suggestion))
}

func isNodeCommand(c *cli.Command) bool { return c.Name == "server" || c.Name == "agent" }

func meant(suggestion string) string {
	if suggestion == "" {
		return ""
	}
	return "; did you mean " + suggestion + "?"
}

func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}
