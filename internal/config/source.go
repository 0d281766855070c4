package config

import "fmt"

// SourceKind is where a value comes from; a higher kind beats a lower one.
type SourceKind uint8

// The sources, weakest first.
const (
	FromDefault SourceKind = iota
	FromFile
	FromEnv
	FromFlag
)

// Source is the place that gave a value.
type Source struct {
	Kind SourceKind
	Name string // path of the file, name of the variable, flag with its dashes
	Line int    // in files, from 1
}

func (s Source) String() string {
	switch s.Kind {
	case FromFile:
		if s.Line == 0 {
			return s.Name
		}
		return fmt.Sprintf("%s:%d", s.Name, s.Line)
	case FromEnv:
		return "environment " + s.Name
	case FromFlag:
		return "flag " + s.Name
	}
	return "default"
}

// Problem is something wrong with one value, or with a file as a whole.
type Problem struct {
	Source Source
	Option string // name of the option; empty when it is not about one
	Reason string
}

func (p *Problem) Error() string {
	// A flag or variable names its option already.
	switch {
	case p.Source.Kind == FromDefault:
		return p.Option + ": " + p.Reason
	case p.Source.Kind == FromFile && p.Option != "":
		return fmt.Sprintf("%s: %s: %s", p.Source, p.Option, p.Reason)
	}
	return fmt.Sprintf("%s: %s", p.Source, p.Reason)
}

// Problems takes an error of Load or Validate apart into its parts.
func Problems(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, Problems(e)...)
	}
	return out
}
