package upgrade

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/status"
)

// How health is judged, in running time: the clock may jump.
const (
	lookEvery = time.Second
	// settle is how long limpet must be well without a new start: one that comes
	// up and falls down again is not.
	settle = 10 * time.Second
	// maxEnds is how often it may end by itself before its time is over.
	maxEnds = 3
)

// observation is one look at limpet.
type observation struct {
	at     time.Duration // since the watch began
	report status.Report
	err    error // why there is no report
	// installed: the process that answers runs the installed binary.
	installed bool
	ends      int
}

// verdict is what a vigil says.
type verdict int

const (
	waiting verdict = iota
	healthy
	unhealthy
)

// vigil watches limpet become healthy.
type vigil struct {
	timeout time.Duration
	ignore  []string

	wellSince time.Duration
	well      bool
	pid       int
	started   time.Time // of the process, by its own word: only compared with itself
	trouble   string    // what was wrong at last
}

// look takes an observation into account. The reason goes with unhealthy.
func (v *vigil) look(o observation) (verdict, string) {
	trouble := o.trouble(v.ignore)
	if trouble != "" {
		v.trouble, v.well = trouble, false
	} else if !v.well || o.report.PID != v.pid || !o.report.Started.Equal(v.started) {
		v.well, v.wellSince, v.pid, v.started = true, o.at, o.report.PID, o.report.Started
	}
	switch {
	case v.well && o.at-v.wellSince >= settle:
		return healthy, ""
	case o.ends >= maxEnds:
		return unhealthy, fmt.Sprintf("limpet ended %d times (%s)", o.ends, v.trouble)
	case o.at >= v.timeout && !v.well:
		return unhealthy, fmt.Sprintf("limpet was not healthy within %v: %s", v.timeout, v.trouble)
	}
	return waiting, ""
}

// trouble is what is wrong; empty if nothing is.
func (o observation) trouble(ignore []string) string {
	switch {
	case errors.Is(o.err, status.ErrNotRunning):
		return "it does not answer"
	case o.err != nil:
		return o.err.Error()
	case !o.installed:
		return "the old process is still there"
	}
	var list []string
	for _, name := range unwell(o.report) {
		if !slices.Contains(ignore, name) {
			list = append(list, name)
		}
	}
	if len(list) == 0 {
		if len(o.report.Components) == 0 {
			return "no component has started"
		}
		return ""
	}
	for i, name := range list {
		c := o.report.Components[slices.IndexFunc(o.report.Components, func(c component.State) bool { return c.Name == name })]
		list[i] = name + " is " + string(c.Phase)
		if c.Reason != "" {
			list[i] += " (" + c.Reason + ")"
		}
	}
	if len(list) > 3 {
		list = append(list[:3], fmt.Sprintf("and %d more", len(list)-3))
	}
	return strings.Join(list, ", ")
}

// unwell names the components that are not as they should be.
func unwell(r status.Report) []string {
	var names []string
	for _, c := range r.Components {
		if !c.Healthy() {
			names = append(names, c.Name)
		}
	}
	return names
}
