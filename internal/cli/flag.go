package cli

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/config"
)

// ownFlag is a flag of a command's own that has a value.
type ownFlag struct {
	*cli.StringFlag
	value   string   // its name in help
	choices []string // the words it may be; anything if there are none
}

func outputFlag() cli.Flag {
	return &ownFlag{
		StringFlag: &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: string(Text), Usage: "Format of the output: text or json."},
		value:      "FORMAT",
		choices:    []string{string(Text), string(JSON)},
	}
}

func forFlag() cli.Flag {
	return &ownFlag{
		StringFlag: &cli.StringFlag{Name: "for", Value: "server", Usage: "Whose configuration: server or agent."},
		value:      "COMMAND",
		choices:    []string{"server", "agent"},
	}
}

// chosen is the value of an ownFlag of the command that is one of a few words.
func chosen(c *cli.Context, name string) (string, error) {
	value := c.String(name)
	for _, f := range c.Command.Flags {
		choice, ok := f.(*ownFlag)
		if ok && choice.Name == name && !slices.Contains(choice.choices, value) {
			return "", usagef(c, "flag --%s: %q is not one of %s%s", name, value,
				strings.Join(choice.choices, ", "), meant(config.Suggest(value, choice.choices)))
		}
	}
	return value, nil
}

// flagInfo is what help and completion show of a flag.
type flagInfo struct {
	names  []string // without dashes, the long one first
	value  string   // name of the value; empty for a switch
	values []string // words it accepts, if they are few
	usage  string
	deflt  string
	group  string
	option *config.Option // of a config.Flag
}

func flagInfoOf(f cli.Flag) flagInfo {
	switch f := f.(type) {
	case *config.Flag:
		o := &f.Option
		return flagInfo{
			names: append([]string{o.Name}, o.Aliases...), value: o.Value, values: o.Values,
			usage: o.Usage, deflt: o.Default, group: o.Group, option: o,
		}
	case *ownFlag:
		return flagInfo{
			names: f.Names(), value: f.value, values: f.choices,
			usage: f.Usage, deflt: f.Value, group: "Flags",
		}
	case *listFlag:
		return flagInfo{names: f.Names(), value: f.value, usage: f.Usage, group: "Flags"}
	case *chartFlag:
		return flagInfo{names: f.Names(), value: f.value, values: f.choices, usage: f.Usage, group: "Flags"}
	case *cli.BoolFlag:
		return flagInfo{names: f.Names(), usage: f.Usage, group: "Flags"}
	}
	return flagInfo{names: f.Names(), value: "VALUE", group: "Flags"}
}

// typed is a flag as help shows it: -d, --data-dir DIR.
func (f flagInfo) typed() string {
	out := "    "
	if len(f.names[0]) == 1 {
		out = "-" + f.names[0]
	} else {
		if len(f.names) > 1 {
			out = "-" + f.names[1] + ", "
		}
		out += "--" + f.names[0]
	}
	if f.value != "" {
		out += " " + f.value
	}
	return out
}
