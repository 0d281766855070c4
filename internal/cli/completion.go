package cli

import (
	_ "embed"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
)

// completionFlag ends the command line with which a shell asks what the word
// before it could be. (urfave/cli's own name; its own answer looks at os.Args,
// knows no values and prints no descriptions for bash.)
const completionFlag = "--generate-bash-completion"

var (
	//go:embed completion.bash
	bashScript string
	//go:embed completion.zsh
	zshScript string
	//go:embed completion.fish
	fishScript string
)

func (a *App) completionCommand() *cli.Command {
	scripts := map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}
	shells := slices.Sorted(maps.Keys(scripts))
	return leaf(&cli.Command{
		Name:        "completion",
		Usage:       "Print the completion script of a shell",
		Description: "Completes commands, flags and their values, and for limpet kubectl what kubectl itself completes.",
		ArgsUsage:   strings.Join(shells, "|"),
		Action: func(c *cli.Context) error {
			shell := c.Args().First()
			script, ok := scripts[shell]
			switch {
			case shell == "":
				return usagef(c, "name a shell: %s", strings.Join(shells, ", "))
			case !ok:
				return usagef(c, "there is no script for %q, only for %s%s", shell, strings.Join(shells, ", "), meant(config.Suggest(shell, shells)))
			case c.NArg() > 1:
				return usagef(c, "takes one shell, but has also %q", c.Args().Get(1))
			}
			_, err := io.WriteString(a.Stdout, script)
			return failed(c, err)
		},
	},
		"For this shell only", "source <(limpet completion bash)",
		"For every new bash", "limpet completion bash > /etc/bash_completion.d/limpet",
		"For every new zsh, from a directory of $fpath", "limpet completion zsh > /usr/local/share/zsh/site-functions/_limpet",
		"For every new fish", "limpet completion fish > /etc/fish/completions/limpet.fish",
	)
}

// completionRequest recognises a shell's question; words are those after the
// program's name, the last of which is being typed and may be empty.
func completionRequest(argv []string) (words []string, ok bool) {
	last := len(argv) - 1
	if last < 1 || argv[last] != completionFlag {
		return nil, false
	}
	words = argv[1:last]
	// What follows these belongs to the programs, whose arguments are not touched.
	if len(words) > 1 && (words[0] == "kubectl" || words[0] == "ctr") {
		return nil, false
	}
	return words, true
}

// candidate is one word that could stand there.
type candidate struct{ word, usage string }

// writeCandidates prints one candidate a line, with its description after a tab.
func writeCandidates(w io.Writer, candidates []candidate) {
	for _, c := range candidates {
		fmt.Fprintf(w, "%s\t%s\n", c.word, c.usage)
	}
}

// complete returns what the last of words could become. None means that the
// shell shall offer files.
func complete(app *cli.App, words []string) []candidate {
	if len(words) == 0 {
		words = []string{""}
	}
	commands, flags := app.Commands, app.Flags
	var arguments []string // words the command takes
	current := words[len(words)-1]
	var awaiting *flagInfo // flag whose value comes next
	for _, word := range words[:len(words)-1] {
		switch {
		case awaiting != nil:
			awaiting = nil
		case strings.HasPrefix(word, "-"):
			awaiting = takesNext(flags, word)
		default:
			if i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(word) }); i >= 0 {
				arguments = choices(commands[i].ArgsUsage)
				commands, flags = commands[i].Subcommands, commands[i].Flags
			}
		}
	}
	name, value, joined := strings.Cut(current, "=")
	switch {
	case awaiting != nil:
		return valueCandidates(awaiting, "", current)
	case joined && strings.HasPrefix(name, "-"):
		return valueCandidates(findFlag(flags, name), name+"=", value)
	case strings.HasPrefix(current, "-"):
		return flagCandidates(flags, current)
	}
	var out []candidate
	for _, c := range commands {
		if !c.Hidden && strings.HasPrefix(c.Name, current) {
			out = append(out, candidate{c.Name, c.Usage})
		}
	}
	for _, word := range arguments {
		if strings.HasPrefix(word, current) {
			out = append(out, candidate{word, ""})
		}
	}
	return out
}

// choices are the words of an ArgsUsage of the form a|b|c.
func choices(argsUsage string) []string {
	if !strings.Contains(argsUsage, "|") {
		return nil
	}
	return strings.Split(argsUsage, "|")
}

// takesNext is the flag typed as word when the next word is its value.
func takesNext(flags []cli.Flag, word string) *flagInfo {
	if f := findFlag(flags, word); f != nil && f.value != "" {
		return f
	}
	return nil
}

func findFlag(flags []cli.Flag, word string) *flagInfo {
	for _, f := range flags {
		if info := flagInfoOf(f); slices.Contains(info.names, strings.TrimLeft(word, "-")) {
			return &info
		}
	}
	return nil
}

func valueCandidates(f *flagInfo, prefix, typed string) []candidate {
	if f == nil {
		return nil
	}
	var out []candidate
	for _, v := range f.values {
		if strings.HasPrefix(v, typed) {
			out = append(out, candidate{prefix + v, ""})
		}
	}
	return out
}

func flagCandidates(flags []cli.Flag, typed string) []candidate {
	out := []candidate{}
	for _, f := range flags {
		info := flagInfoOf(f)
		if word := dashes(info.names[0]); strings.HasPrefix(word, typed) {
			out = append(out, candidate{word, info.usage})
		}
	}
	const help = "--help"
	hasHelp := slices.ContainsFunc(out, func(c candidate) bool { return c.word == help })
	if !hasHelp && strings.HasPrefix(help, typed) {
		out = append(out, candidate{help, "Show help."})
	}
	return out
}
