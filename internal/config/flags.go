package config

import (
	"flag"
	"strings"

	"github.com/urfave/cli/v2"
)

// Flags returns the command-line flags of the options.
func Flags(opts []Option) []cli.Flag {
	out := make([]cli.Flag, len(opts))
	for i := range opts {
		out[i] = &Flag{Option: opts[i]}
	}
	return out
}

// FlagValues returns what the command line gave, by option name, in order: the
// Flags of Input.
func FlagValues(ctx *cli.Context, opts []Option) map[string][]string {
	out := map[string][]string{}
	for i := range opts {
		if v, ok := ctx.Generic(opts[i].Name).(*occurrences); ok && len(v.values) > 0 {
			out[opts[i].Name] = v.values
		}
	}
	return out
}

// Flag is an Option as urfave/cli sees it. It only records the text of each
// occurrence: decoding is the same for flags, environment and files, and happens in Load.
type Flag struct{ Option Option }

var _ cli.Flag = (*Flag)(nil)

// Apply registers a fresh recorder under the name and the aliases.
func (f *Flag) Apply(set *flag.FlagSet) error {
	v := &occurrences{isBool: f.Option.Kind == Bool}
	for _, name := range append([]string{f.Option.Name}, f.Option.Aliases...) {
		set.Var(v, name, f.Option.Usage)
	}
	return nil
}

// Names is the long name alone: cli copies the value of one name to the
// others, which here share one recorder and would record it twice.
func (f *Flag) Names() []string { return []string{f.Option.Name} }

// IsSet is for flags that cli fills from the environment, which this one does not do.
func (f *Flag) IsSet() bool { return false }

func (f *Flag) String() string { return strings.Join(f.Option.Flags(), ", ") }

type occurrences struct {
	values []string
	isBool bool
}

func (o *occurrences) Set(v string) error { o.values = append(o.values, v); return nil }
func (o *occurrences) String() string     { return strings.Join(o.values, ",") }
func (o *occurrences) IsBoolFlag() bool   { return o.isBool }
