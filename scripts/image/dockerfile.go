package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// recipe is what a Dockerfile says: as much of one as limpet's has. What is not known
// here is an error, so that the image cannot become another one than docker's.
type recipe struct {
	config v1.Config
	copies []string // directories of the context that become /
}

// readDockerfile reads a Dockerfile with the values of its arguments.
func readDockerfile(text string, args map[string]string) (recipe, error) {
	r := recipe{config: v1.Config{Labels: map[string]string{}}}
	vars := map[string]string{}
	for n, line := range instructions(text) {
		word, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		var err error
		switch {
		case n == 0 && line != "FROM scratch":
			err = errors.New("the first instruction must be FROM scratch")
		case n == 0:
		case word == "ARG":
			name, value, _ := strings.Cut(rest, "=")
			if given, ok := args[name]; ok {
				value = given
			}
			vars[name] = value
		default:
			err = r.instruction(word, os.Expand(rest, func(name string) string { return vars[name] }))
		}
		if err != nil {
			return recipe{}, fmt.Errorf("Dockerfile: %s: %w", line, err) //nolint:staticcheck // the file's name
		}
	}
	return r, nil
}

func (r *recipe) instruction(word, rest string) (err error) {
	switch word {
	case "COPY":
		from, to, _ := strings.Cut(rest, " ")
		if to != "/" || !strings.HasSuffix(from, "/") {
			return errors.New("only whole directories are copied, to /")
		}
		r.copies = append(r.copies, from)
	case "LABEL":
		var list [][2]string
		list, err = assignments(rest)
		for _, l := range list {
			r.config.Labels[l[0]] = l[1]
		}
	case "ENV":
		var list [][2]string
		list, err = assignments(rest)
		for _, e := range list {
			r.config.Env = append(r.config.Env, e[0]+"="+e[1])
		}
	case "VOLUME":
		var list []string
		err = json.Unmarshal([]byte(rest), &list)
		r.config.Volumes = set(list)
	case "EXPOSE":
		r.config.ExposedPorts = set([]string{rest + "/tcp"})
	case "STOPSIGNAL":
		r.config.StopSignal = rest
	case "ENTRYPOINT":
		err = json.Unmarshal([]byte(rest), &r.config.Entrypoint)
	case "CMD":
		err = json.Unmarshal([]byte(rest), &r.config.Cmd)
	default:
		err = errors.New("scripts/image does not know this instruction")
	}
	return err
}

func set(list []string) map[string]struct{} {
	out := map[string]struct{}{}
	for _, s := range list {
		out[s] = struct{}{}
	}
	return out
}

// instructions are the lines without comments, those that end in a backslash joined.
func instructions(text string) []string {
	var out []string
	var open string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if before, more := strings.CutSuffix(line, `\`); more {
			open += strings.TrimSpace(before) + " "
			continue
		}
		out = append(out, open+line)
		open = ""
	}
	return out
}

// assignments reads NAME="VALUE" NAME="VALUE"…
func assignments(rest string) ([][2]string, error) {
	var out [][2]string
	for rest = strings.TrimSpace(rest); rest != ""; rest = strings.TrimSpace(rest) {
		name, after, ok := strings.Cut(rest, `="`)
		value, more, closed := strings.Cut(after, `"`)
		if !ok || !closed {
			return nil, fmt.Errorf("%q is not NAME=\"VALUE\"", rest)
		}
		out, rest = append(out, [2]string{name, value}), more
	}
	return out, nil
}
