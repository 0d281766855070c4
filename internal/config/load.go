package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFileSize bounds what is read of a config file: a device or a log named by
// mistake must not fill the memory.
const maxFileSize = 1 << 20

// Input is what Load puts together.
type Input struct {
	// Command is ForServer or ForAgent.
	Command Command
	// Flags are the values given on the command line by option name, in order.
	Flags map[string][]string
	// LookupEnv is os.LookupEnv; nil: no environment. An empty variable counts as not set.
	LookupEnv func(string) (string, bool)
	// DefaultFile is read when no file is named, and may be missing; usually DefaultConfigFile.
	DefaultFile string
}

// Loaded is a configuration and where each part of it came from.
type Loaded struct {
	Command Command
	// Server holds every decoded value; the Node of an agent is Server.Node.
	Server  Server
	options []Option
	// given are the items of each option that is not at its default.
	given map[string][]item
	// faulty are the options whose value could not be decoded.
	faulty map[string]bool
}

// Load reads the config files, the environment and the flags, and decodes them
// over each other: flags beat environment beat files, later files beat earlier
// ones; a list is replaced as a whole unless a file says "key+". The error
// joins every *Problem found; the Loaded then holds what is sound. Defaults are
// not filled in: see Complete.
func Load(in Input) (*Loaded, error) {
	l := &Loaded{
		Command: in.Command,
		options: Options(),
		given:   map[string][]item{},
		faulty:  map[string]bool{},
	}
	problems := l.loadFiles(in)
	problems = append(problems, l.loadEnv(in)...)
	problems = append(problems, l.loadFlags(in)...)
	for i := range l.options {
		opt := &l.options[i]
		if items, ok := l.given[opt.Name]; ok {
			// Each value was checked when it was read.
			if err := opt.set(&l.Server, valuesOf(items)); err != nil {
				problems = append(problems, &Problem{Source: items[0].source, Option: opt.Name, Reason: err.Error()})
			}
		}
	}
	for _, err := range problems {
		if p := (*Problem)(nil); errors.As(err, &p) && p.Option != "" {
			l.faulty[p.Option] = true
		}
	}
	return l, errors.Join(problems...)
}

// Agent is the configuration of `limpet agent`.
func (l *Loaded) Agent() Agent { return Agent{Node: l.Server.Node} }

// Sources are the places that gave the option its values, one per value; none: the default.
func (l *Loaded) Sources(option string) []Source {
	var out []Source
	for _, it := range l.given[option] {
		out = append(out, it.source)
	}
	return out
}

func valuesOf(items []item) []string {
	out := make([]string, len(items))
	for i := range items {
		out[i] = items[i].value
	}
	return out
}

func (l *Loaded) loadFlags(in Input) []error {
	var problems []error
	for i := range l.options {
		opt := &l.options[i]
		values, ok := in.Flags[opt.Name]
		if !ok {
			continue
		}
		source := Source{Kind: FromFlag, Name: dashed(opt.Name)}
		if !opt.Commands.Has(in.Command) {
			reason := fmt.Sprintf("is a flag of %s, not of %s", opt.Commands, in.Command)
			problems = append(problems, &Problem{Source: source, Option: opt.Name, Reason: reason})
			continue
		}
		if opt.Kind != List {
			values = values[len(values)-1:] // the last one wins
		}
		problems = append(problems, l.put(opt, source, values...)...)
	}
	return problems
}

func (l *Loaded) loadEnv(in Input) []error {
	if in.LookupEnv == nil {
		return nil
	}
	var problems []error
	for i := range l.options {
		opt := &l.options[i]
		// Variables of the other command are not an error: an environment is shared.
		if !opt.Commands.Has(in.Command) {
			continue
		}
		text, ok := in.LookupEnv(opt.Env)
		if !ok || text == "" {
			continue
		}
		values := []string{text}
		if opt.KeepCommas {
			values = strings.Split(text, "\n") // the only separator arguments never hold
		}
		problems = append(problems, l.put(opt, Source{Kind: FromEnv, Name: opt.Env}, values...)...)
	}
	return problems
}

// put replaces the values of an option.
func (l *Loaded) put(opt *Option, source Source, values ...string) []error {
	var items []item
	var problems []error
	for _, text := range values {
		for _, v := range opt.split(text) {
			if err := check(opt, v); err != nil {
				problems = append(problems, &Problem{Source: source, Option: opt.Name, Reason: err.Error()})
				continue
			}
			items = append(items, item{value: v, source: source})
		}
	}
	if len(problems) == 0 {
		l.given[opt.Name] = items
	}
	return problems
}

func (l *Loaded) loadFiles(in Input) []error {
	main, namedBy := configFile(in)
	paths, err := configFiles(main)
	if err != nil {
		return []error{err}
	}
	if len(paths) == 0 || paths[0] != main {
		if namedBy.Kind != FromDefault {
			return []error{&Problem{Source: namedBy, Option: "config", Reason: fmt.Sprintf("file %s does not exist", main)}}
		}
	}
	var problems []error
	for _, path := range paths {
		data, err := readFile(path)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		settings, errs := parseFile(path, data, l.options, in.Command)
		problems = append(problems, errs...)
		for _, s := range settings {
			if s.append {
				s.items = slices.Concat(l.given[s.option.Name], s.items)
			}
			l.given[s.option.Name] = s.items
		}
	}
	return problems
}

// configFile is the path of the main config file and who named it.
func configFile(in Input) (string, Source) {
	if v := in.Flags["config"]; len(v) > 0 && v[len(v)-1] != "" {
		return v[len(v)-1], Source{Kind: FromFlag, Name: "--config"}
	}
	if in.LookupEnv != nil {
		env := lookup(Options(), "config").Env
		if v, ok := in.LookupEnv(env); ok && v != "" {
			return v, Source{Kind: FromEnv, Name: env}
		}
	}
	return in.DefaultFile, Source{}
}

// configFiles are main, if it exists, and the files of main.d in alphabetical order.
func configFiles(main string) ([]string, error) {
	if main == "" {
		return nil, nil
	}
	var paths []string
	if _, err := os.Stat(main); err == nil {
		paths = append(paths, main)
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read config file: %w", err)
	}
	dir := main + ".d"
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read config directory: %w", err)
	}
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if !e.IsDir() && (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(e.Name(), ".") {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return paths, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read config file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read config file: %w", err)
	}
	if len(data) > maxFileSize {
		return nil, fmt.Errorf("read config file %s: larger than %d KiB: is it a config file?", path, maxFileSize>>10)
	}
	return data, nil
}
