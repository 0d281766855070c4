package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// interspersed returns the arguments without the flags among them, which it
// sets: urfave/cli takes flags before the first argument only, but people write
// `limpet node drain shop-2 --force`. All after -- are arguments.
func interspersed(c *cli.Context) ([]string, error) {
	var args []string
	words := c.Args().Slice()
	for i := 0; i < len(words); i++ {
		word := words[i]
		if word == "--" {
			return append(args, words[i+1:]...), nil
		}
		if !strings.HasPrefix(word, "-") || word == "-" {
			args = append(args, word)
			continue
		}
		name, value, joined := strings.Cut(strings.TrimLeft(word, "-"), "=")
		flag := flagNamed(c.Command.Flags, name)
		if flag == nil {
			return nil, onUsageError(c, fmt.Errorf("flag provided but not defined: -%s", name), false)
		}
		switch {
		case joined:
		case isSwitch(flag):
			value = "true"
		case i+1 < len(words):
			i++
			value = words[i]
		default:
			return nil, usagef(c, "flag --%s: needs a value", name)
		}
		if isSwitch(flag) {
			if _, err := strconv.ParseBool(value); err != nil {
				return nil, usagef(c, "flag --%s: %q is neither true nor false", name, value)
			}
		}
		if err := c.Set(flag.Names()[0], value); err != nil {
			return nil, usagef(c, "flag --%s: %w", name, err)
		}
	}
	return args, nil
}

func flagNamed(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func isSwitch(f cli.Flag) bool { return flagInfoOf(f).value == "" }
