package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
)

const (
	helpWidth  = 100 // columns
	flagColumn = 34  // where the text of a flag starts
)

// The help texts are handed to urfave/cli as templates without any action.

func appHelp(app *cli.App) string {
	var b strings.Builder
	fmt.Fprintf(&b, "limpet - %s\n\n%s\n", app.Usage, wrap(app.Description, 0))
	b.WriteString("\nUsage:\n  limpet COMMAND [flags]\n\nCommands:\n")
	writeCommands(&b, app.Commands)
	b.WriteString("\nExamples:\n")
	writeExamples(&b, []string{
		"Start a cluster on this machine", "limpet server",
		"Look at it", "limpet kubectl get nodes,pods --all-namespaces",
	})
	b.WriteString("\nlimpet COMMAND --help tells more. limpet --version prints the version.\n")
	return b.String()
}

func commandHelp(cmd *cli.Command, examples []string) string {
	var b strings.Builder
	b.WriteString("{{.HelpName}} - " + cmd.Usage + "\n")
	if cmd.Description != "" {
		b.WriteString("\n" + wrap(cmd.Description, 0) + "\n")
	}
	b.WriteString("\nUsage:\n  {{.HelpName}}")
	if len(cmd.Subcommands) > 0 {
		b.WriteString(" COMMAND")
	}
	if len(cmd.Flags) > 0 || len(cmd.Subcommands) > 0 {
		b.WriteString(" [flags]")
	}
	if cmd.ArgsUsage != "" {
		b.WriteString(" " + cmd.ArgsUsage)
	}
	b.WriteString("\n")
	if len(cmd.Subcommands) > 0 {
		b.WriteString("\nCommands:\n")
		writeCommands(&b, cmd.Subcommands)
	}
	if len(examples) > 0 {
		b.WriteString("\nExamples:\n")
		writeExamples(&b, examples)
	}
	writeFlags(&b, cmd.Flags)
	return b.String()
}

func writeCommands(b *strings.Builder, commands []*cli.Command) {
	for _, c := range commands {
		fmt.Fprintf(b, "  %-14s %s\n", c.Name, c.Usage)
	}
}

// writeExamples takes pairs of what it is for and the command.
func writeExamples(b *strings.Builder, examples []string) {
	for pair := range slices.Chunk(examples, 2) {
		fmt.Fprintf(b, "  # %s\n  %s\n", pair[0], pair[1])
	}
}

func writeFlags(b *strings.Builder, flags []cli.Flag) {
	var infos []flagInfo
	var groups []string
	hasOptions := false
	for _, f := range flags {
		info := flagInfoOf(f)
		infos = append(infos, info)
		hasOptions = hasOptions || info.option != nil
		if !slices.Contains(groups, info.group) {
			groups = append(groups, info.group)
		}
	}
	for _, group := range groups {
		fmt.Fprintf(b, "\n%s:\n", group)
		for _, info := range infos {
			if info.group == group {
				writeFlag(b, info)
			}
		}
	}
	if hasOptions {
		b.WriteString("\n" + wrap("Each flag can also be given in the environment, as LIMPET_ and its name (LIMPET_DATA_DIR) "+
			"unless [$NAME] says otherwise, and in a config file under its long name. Flags beat the environment, which beats files.", 0) + "\n")
	}
}

func writeFlag(b *strings.Builder, f flagInfo) {
	text := f.usage
	if f.option != nil && f.option.Kind == config.List {
		text += " Repeatable."
	}
	if f.deflt != "" {
		text += " (default: " + f.deflt + ")"
	}
	if o := f.option; o != nil {
		if o.Env != "LIMPET_"+strings.ToUpper(strings.ReplaceAll(o.Name, "-", "_")) {
			text += " [$" + o.Env + "]"
		}
	}
	typed := "  " + f.typed()
	if len(typed) >= flagColumn {
		fmt.Fprintf(b, "%s\n%s", typed, strings.Repeat(" ", flagColumn))
	} else {
		fmt.Fprintf(b, "%-*s", flagColumn, typed)
	}
	b.WriteString(wrap(text, flagColumn) + "\n")
}

// wrap breaks text at helpWidth; lines after the first are indented.
func wrap(text string, indent int) string {
	var b strings.Builder
	column := indent
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case column+1+len(word) > helpWidth:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}
