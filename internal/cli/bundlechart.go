package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/limpetio/limpet/internal/bundle"
	"github.com/limpetio/limpet/internal/helmchart"
)

// chartFlag is --chart, or a flag that belongs to the --chart before it, as
// several charts have values of their own.
type chartFlag struct {
	*cli.GenericFlag
	value   string // its name in help
	choices []string
}

// chartSetting puts what such a flag says into the chart that it belongs to.
type chartSetting struct {
	charts *[]bundle.ChartSource
	set    func(chart *bundle.ChartSource, value string) error // nil: --chart itself
}

// String is for package flag, which shows defaults.
func (s *chartSetting) String() string { return "" }

// Set is called in the order of the command line.
func (s *chartSetting) Set(value string) error {
	if value == "" {
		return errors.New("needs a value")
	}
	if s.set == nil {
		*s.charts = append(*s.charts, bundle.ChartSource{Source: value})
		return nil
	}
	if len(*s.charts) == 0 {
		return errors.New("belongs to the --chart before it, and there is none")
	}
	return s.set(&(*s.charts)[len(*s.charts)-1], value)
}

// once is a setting that a chart has only one of.
func once(field func(*bundle.ChartSource) *string) func(*bundle.ChartSource, string) error {
	return func(c *bundle.ChartSource, value string) error {
		if p := field(c); *p == "" {
			*p = value
			return nil
		}
		return fmt.Errorf("is given twice for the chart %s", c.Source)
	}
}

// chartFlags put their charts into the given place.
func chartFlags(charts *[]bundle.ChartSource) []cli.Flag {
	one := func(name, value, usage string, set func(*bundle.ChartSource, string) error, choices ...string) cli.Flag {
		return &chartFlag{
			GenericFlag: &cli.GenericFlag{Name: name, Usage: usage, Value: &chartSetting{charts: charts, set: set}},
			value:       value, choices: choices,
		}
	}
	hooks := []string{string(helmchart.PlainHooks), string(helmchart.SkipHooks)}
	return []cli.Flag{
		one("chart", "DIR|FILE|oci://REF", "A Helm chart, which is rendered to a manifest; may be repeated. The next five flags belong to the chart before them.", nil),
		one("values", "FILE", "Values for the chart; may be repeated.", func(c *bundle.ChartSource, value string) error {
			c.ValueFiles = append(c.ValueFiles, value)
			return nil
		}),
		one("set", "NAME=VALUE", "A value for the chart, as helm has it; may be repeated.", func(c *bundle.ChartSource, value string) error {
			c.Set = append(c.Set, value)
			return nil
		}),
		one("release", "NAME", "Name of the chart's release; by default the chart's.", once(func(c *bundle.ChartSource) *string { return &c.Release })),
		one("chart-namespace", "NAME", "Namespace of the chart's release; by default default.", once(func(c *bundle.ChartSource) *string { return &c.Namespace })),
		one("hooks", "HOW", "What becomes of hooks of the chart: plain objects, or skip. Without this a chart with hooks is refused.",
			func(c *bundle.ChartSource, value string) error {
				if !slices.Contains(hooks, value) {
					return fmt.Errorf("%q is not one of %s", value, strings.Join(hooks, ", "))
				}
				c.Hooks = helmchart.Hooks(value)
				return nil
			}, hooks...),
	}
}
