package config

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Print writes the effective configuration as a config file with, as a comment,
// where each value comes from. Options without a value are commented out;
// secrets are left out the same way, so that the output can be used as a file.
func (l *Loaded) Print(w io.Writer) error {
	out := bufio.NewWriter(w)
	opts := l.printable()
	for i, group := range Groups(opts) {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "# %s\n", group)
		for j := range opts {
			if opts[j].Group == group {
				l.printOption(out, &opts[j])
			}
		}
	}
	return out.Flush()
}

func (l *Loaded) printable() []Option {
	var out []Option
	for _, o := range OptionsFor(l.Command) {
		if !o.NotInFile {
			out = append(out, o)
		}
	}
	return out
}

func (l *Loaded) printOption(w io.Writer, opt *Option) {
	values := opt.get(&l.Server)
	sources := l.Sources(opt.Name)
	source := func(i int) string {
		if len(sources) == len(values) {
			return sources[i].String()
		}
		if len(sources) > 0 {
			return sources[0].String()
		}
		return Source{}.String()
	}
	switch {
	case len(values) == 0:
		fmt.Fprintf(w, "# %s:  # not set\n", opt.Name)
	case opt.Secret:
		fmt.Fprintf(w, "# %s: (secret)  # %s\n", opt.Name, source(0))
	case opt.Kind == List:
		fmt.Fprintf(w, "%s:\n", opt.Name)
		for i, v := range values {
			fmt.Fprintf(w, "  - %s  # %s\n", scalar(v, String), source(i))
		}
	default:
		fmt.Fprintf(w, "%s: %s  # %s\n", opt.Name, scalar(values[0], opt.Kind), source(0))
	}
}

// scalar is the value as YAML on one line, in quotes where it would be read as something else.
func scalar(v string, k Kind) string {
	if k != String {
		return v
	}
	if strings.ContainsAny(v, "\n\r") {
		return fmt.Sprintf("%q", v) // a double-quoted YAML scalar; the encoder would use a block
	}
	text, err := yaml.Marshal(v)
	if err != nil { // of a string: cannot be
		return fmt.Sprintf("%q", v)
	}
	return strings.TrimSuffix(string(text), "\n")
}
