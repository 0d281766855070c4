package config

import (
	"slices"
	"strings"
)

// Kind is the shape of an option's value.
type Kind uint8

// The kinds of a value.
const (
	String Kind = iota + 1
	Int
	Bool
	// List values are repeatable. They are split at commas too, unless the
	// option sets KeepCommas.
	List
)

func (k Kind) String() string {
	switch k {
	case String:
		return "string"
	case Int:
		return "number"
	case Bool:
		return "true or false"
	case List:
		return "list"
	}
	return "unknown kind"
}

// Command is a set of the commands that take an option.
type Command uint8

// The commands, and both of them.
const (
	ForServer Command = 1 << iota
	ForAgent
	ForBoth = ForServer | ForAgent
)

// Has reports whether every command of other is in c.
func (c Command) Has(other Command) bool { return c&other == other }

func (c Command) String() string {
	switch c {
	case ForServer:
		return "limpet server"
	case ForAgent:
		return "limpet agent"
	}
	return "limpet server and limpet agent"
}

// Option is one setting, under one name wherever it can be given: as
// flag (--Name), as environment variable (Env) and as key of a config file
// (Name). The flags, the help, the decoding and docs/flags.md all come from
// the same list of Options.
type Option struct {
	Name    string   // long flag name without dashes
	Aliases []string // one-letter flag names; flags only
	Env     string   // default LIMPET_ and the upper-snake Name
	Group   string   // heading in help and documentation
	// Commands are the commands that take the option.
	Commands Command
	// Value names the value in help, as in --data-dir DIR; empty for Bool.
	Value string
	// Values are the words the option accepts, for shell completion.
	Values []string
	// Default is the default as shown to people; the effective one is set by Complete.
	Default string
	// Usage is one sentence or more, without the default.
	Usage string
	// KeepCommas makes a List repeatable only: its values may contain commas.
	KeepCommas bool
	// Secret values are never printed.
	Secret bool
	// NotInFile marks the option that names the file itself.
	NotInFile bool

	binding
}

// Flags are the names as typed: --data-dir, -d.
func (o *Option) Flags() []string {
	out := []string{dashed(o.Name)}
	for _, a := range o.Aliases {
		out = append(out, dashed(a))
	}
	return out
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// split takes one value as typed apart into the values it stands for.
func (o *Option) split(value string) []string {
	if o.Kind != List {
		return []string{value}
	}
	if o.KeepCommas {
		if value == "" {
			return nil
		}
		return []string{value}
	}
	var out []string
	for part := range strings.SplitSeq(value, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// Options returns every option there is, in the order of the documentation.
func Options() []Option {
	all := slices.Concat(commonOptions(), serverOptions(), nodeOptions(), argOptions())
	for i := range all {
		if all[i].Env == "" {
			all[i].Env = "LIMPET_" + strings.ToUpper(strings.ReplaceAll(all[i].Name, "-", "_"))
		}
	}
	return all
}

// OptionsFor returns the options that any command in c takes.
func OptionsFor(c Command) []Option {
	return slices.DeleteFunc(Options(), func(o Option) bool { return o.Commands&c == 0 })
}

// Groups returns the headings of opts in order of first use.
func Groups(opts []Option) []string {
	var out []string
	for i := range opts {
		if !slices.Contains(out, opts[i].Group) {
			out = append(out, opts[i].Group)
		}
	}
	return out
}

func lookup(opts []Option, name string) *Option {
	for i := range opts {
		if opts[i].Name == name || slices.Contains(opts[i].Aliases, name) {
			return &opts[i]
		}
	}
	return nil
}

func names(opts []Option) []string {
	out := make([]string, len(opts))
	for i := range opts {
		out[i] = opts[i].Name
	}
	return out
}

// Select returns the named options of opts, in the order of opts.
func Select(opts []Option, names ...string) []Option {
	return slices.DeleteFunc(slices.Clone(opts), func(o Option) bool { return !slices.Contains(names, o.Name) })
}
