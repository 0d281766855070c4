// Package upstream holds what is common to running Kubernetes' own components
// inside our process: their command lines and their logging.
package upstream

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/cli/globalflag"
	"k8s.io/component-base/logs"
)

// Merge puts the user's arguments over our defaults and returns a command line.
// Both are given as "key=value" or "key", with or without leading dashes; a key
// that the user names replaces the default of the same key entirely, and may
// be repeated for flags that add up. Feature gates are added to ours, since each
// is a setting of its own.
func Merge(defaults, user []string) []string {
	named := make(map[string]bool, len(user))
	for _, arg := range user {
		named[key(arg)] = true
	}
	merged := make([]string, 0, len(defaults)+len(user))
	for _, arg := range defaults {
		if !named[key(arg)] || key(arg) == "feature-gates" {
			merged = append(merged, flag(arg))
		}
	}
	for _, arg := range user {
		merged = append(merged, flag(arg))
	}
	return merged
}

// Names reports whether the user's arguments name one of the keys. A key that
// ends in "*" stands for all keys with that beginning.
func Names(user []string, keys ...string) bool {
	for _, arg := range user {
		for _, k := range keys {
			prefix, wild := strings.CutSuffix(k, "*")
			if key(arg) == k || wild && strings.HasPrefix(key(arg), prefix) {
				return true
			}
		}
	}
	return false
}

func flag(arg string) string { return "--" + strings.TrimLeft(arg, "-") }

func key(arg string) string {
	k, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	return strings.ReplaceAll(k, "_", "-")
}

// Parse reads args into the options behind the named flag sets. The error is
// the component's own message about the first argument it does not understand.
func Parse(component string, sets cliflag.NamedFlagSets, args []string) error {
	globalflag.AddGlobalFlags(sets.FlagSet("global"), component, logs.SkipLoggingConfigurationFlags())
	fs := NewFlagSet(component)
	for _, set := range sets.FlagSets {
		fs.AddFlagSet(set)
	}
	return ParseFlags(component, fs, args)
}

// NewFlagSet returns a flag set that reports errors instead of acting on them.
func NewFlagSet(component string) *pflag.FlagSet {
	fs := pflag.NewFlagSet(component, pflag.ContinueOnError)
	fs.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	fs.SetOutput(io.Discard) // deprecation notices of flags that we set ourselves
	fs.Usage = func() {}
	return fs
}

// ParseFlags is Parse for a component with one flag set.
func ParseFlags(component string, fs *pflag.FlagSet, args []string) error {
	err := fs.Parse(args)
	if err == nil && fs.NArg() > 0 {
		err = fmt.Errorf("unknown command %q", fs.Arg(0))
	}
	if err != nil {
		return &ArgError{Component: component, Err: err}
	}
	return nil
}

// ArgError is a component's complaint about an argument that was passed through to it.
type ArgError struct {
	Component string
	Err       error
}

func (e *ArgError) Error() string {
	if errors.Is(e.Err, pflag.ErrHelp) {
		return fmt.Sprintf("--%s-arg: help cannot be asked for here", e.Component)
	}
	return fmt.Sprintf("--%s-arg: %s says: %v", e.Component, e.Component, e.Err)
}

func (e *ArgError) Unwrap() error { return e.Err }

// ExitCode tells main that the configuration is wrong, not the machine.
func (e *ArgError) ExitCode() int { return 2 }
