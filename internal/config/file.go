package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// setting is one option with the values that one place gives it.
type setting struct {
	option *Option
	append bool // key+: add to the values of earlier files
	items  []item
}

type item struct {
	value  string
	source Source
}

// parseFile reads a config file: one YAML mapping whose keys are names of opts,
// each optionally followed by "+". All problems are returned, each with its
// line, beside the settings that are sound.
func parseFile(name string, data []byte, opts []Option, command Command) ([]setting, []error) {
	f := fileParser{name: name, opts: opts, command: command, seen: map[string]int{}}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, nil // empty, or comments only
		}
		f.syntax(err)
		return nil, f.problems
	}
	if err := dec.Decode(&yaml.Node{}); err == nil {
		f.problem(0, "", "holds more than one YAML document")
	} else if !errors.Is(err, io.EOF) {
		f.syntax(err)
	}
	root := doc.Content[0]
	switch {
	case root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null":
	case root.Kind != yaml.MappingNode:
		f.problem(root.Line, "", "wants lines of the form option: value, has "+describe(root))
	default:
		for i := 0; i+1 < len(root.Content); i += 2 {
			f.entry(root.Content[i], root.Content[i+1])
		}
	}
	return f.settings, f.problems
}

type fileParser struct {
	name     string
	opts     []Option // all options, for suggestions and for messages
	command  Command
	seen     map[string]int // key without "+" → line
	settings []setting
	problems []error
}

func (f *fileParser) problem(line int, option, reason string) {
	f.problems = append(f.problems, &Problem{Source: Source{Kind: FromFile, Name: f.name, Line: line}, Option: option, Reason: reason})
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// syntax turns "yaml: line 3: did not find …" into a Problem of line 3.
func (f *fileParser) syntax(err error) {
	line := 0
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		line, _ = strconv.Atoi(m[1])
	}
	f.problem(line, "", "is not valid YAML: "+yamlLine.ReplaceAllString(err.Error(), ""))
}

func (f *fileParser) entry(key, value *yaml.Node) {
	if key.Kind != yaml.ScalarNode {
		f.problem(key.Line, "", "a key must be the name of an option, not "+describe(key))
		return
	}
	name, add := strings.CutSuffix(key.Value, "+")
	opt := f.option(key.Line, name)
	if opt == nil {
		return
	}
	if line, twice := f.seen[name]; twice {
		f.problem(key.Line, name, fmt.Sprintf("is given twice, first in line %d", line))
		return
	}
	f.seen[name] = key.Line
	if add && opt.Kind != List {
		f.problem(key.Line, name, "takes one value: only a list can be added to with +")
		return
	}
	if items, ok := f.items(opt, resolve(value)); ok {
		f.settings = append(f.settings, setting{option: opt, append: add, items: items})
	}
}

// option finds the option of a key that may be given in a file for this command.
func (f *fileParser) option(line int, name string) *Option {
	var opt *Option
	for i := range f.opts {
		if f.opts[i].Name == name {
			opt = &f.opts[i]
		}
	}
	switch {
	case opt == nil:
		var allowed []string
		for i := range f.opts {
			if f.opts[i].Commands.Has(f.command) && !f.opts[i].NotInFile {
				allowed = append(allowed, f.opts[i].Name)
			}
		}
		f.problem(line, "", fmt.Sprintf("unknown key %q%s", name, didYouMean(Suggest(name, allowed))))
	case !opt.Commands.Has(f.command):
		f.problem(line, name, fmt.Sprintf("is an option of %s, not of %s", opt.Commands, f.command))
	case opt.NotInFile:
		f.problem(line, name, "can be given as flag or in the environment only")
	default:
		return opt
	}
	return nil
}

// items reads the value of an option as the strings a command line would give.
func (f *fileParser) items(opt *Option, value *yaml.Node) ([]item, bool) {
	nodes := []*yaml.Node{value}
	if value.Kind == yaml.SequenceNode {
		if opt.Kind != List {
			f.problem(value.Line, opt.Name, fmt.Sprintf("wants one %s, has a list", opt.Kind))
			return nil, false
		}
		nodes = value.Content
	}
	ok := true
	var out []item
	for _, n := range nodes {
		n = resolve(n)
		if complaint := mismatch(opt, n); complaint != "" {
			f.problem(n.Line, opt.Name, complaint)
			ok = false
			continue
		}
		source := Source{Kind: FromFile, Name: f.name, Line: n.Line}
		for _, v := range opt.split(n.Value) {
			if err := check(opt, v); err != nil {
				f.problem(n.Line, opt.Name, err.Error())
				ok = false
				continue
			}
			out = append(out, item{value: v, source: source})
		}
	}
	return out, ok
}

// mismatch says what is wrong with the type of a scalar. A number is taken as
// text where text is wanted, digit by digit as it was written: 0644 is a file mode.
func mismatch(opt *Option, n *yaml.Node) string {
	wants := "wants " + article(opt.Kind)
	switch {
	case n.Kind == yaml.MappingNode && opt.Kind == List:
		return fmt.Sprintf("wants a list of %s, has %s", opt.Value, describe(n))
	case n.Kind != yaml.ScalarNode:
		return wants + ", has " + describe(n)
	case n.ShortTag() == "!!null":
		return "has no value"
	case n.ShortTag() == "!!bool" && (opt.Kind == String || opt.Kind == List):
		return fmt.Sprintf("wants text, has %s; if that is the text, put it in quotes", n.Value)
	case n.ShortTag() == "!!binary":
		return wants + ", has binary data"
	}
	return ""
}

func article(k Kind) string {
	switch k {
	case Bool:
		return k.String()
	case List:
		return "text or a list of texts"
	}
	return "a " + k.String()
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping (key: value)"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	return "a single value" // which may be a secret: a token file given as config file
}

// resolve follows a YAML alias. One step is enough: an anchor cannot name an alias.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode && n.Alias != nil {
		return n.Alias
	}
	return n
}

// check decodes value into nothing, to learn whether it can be.
func check(opt *Option, value string) error { return opt.set(new(Server), []string{value}) }
