package upgrade

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/status"
)

func seen(at time.Duration, pid int, phases ...component.Phase) observation {
	o := observation{at: at, installed: true, report: status.Report{PID: pid, Started: time.Unix(int64(pid), 0)}}
	for i, p := range phases {
		o.report.Components = append(o.report.Components, component.State{Name: string(rune('a' + i)), Phase: p})
	}
	return o
}

func TestVigil(t *testing.T) {
	t.Parallel()
	const ready, starting = component.Ready, component.Starting
	away := func(at time.Duration, ends int) observation {
		return observation{at: at, err: status.ErrNotRunning, ends: ends}
	}
	old := seen(1*time.Second, 1, ready)
	old.installed = false
	for name, c := range map[string]struct {
		looks  []observation
		want   verdict
		reason string
	}{
		"well for long enough":     {[]observation{seen(0, 1, ready), seen(settle, 1, ready)}, healthy, ""},
		"not yet":                  {[]observation{seen(0, 1, ready), seen(settle-1, 1, ready)}, waiting, ""},
		"began anew in between":    {[]observation{seen(0, 1, ready), seen(settle, 2, ready)}, waiting, ""},
		"done is well":             {[]observation{seen(0, 1, component.Done), seen(settle, 1, component.Done)}, healthy, ""},
		"fell down in between":     {[]observation{seen(0, 1, ready), seen(5*time.Second, 1, starting), seen(settle, 1, ready)}, waiting, ""},
		"the old one is well":      {[]observation{old, old}, waiting, ""},
		"no components":            {[]observation{seen(0, 1), seen(settle, 1)}, waiting, ""},
		"too late":                 {[]observation{seen(time.Minute, 1, ready, starting)}, unhealthy, "b is starting"},
		"not there in time":        {[]observation{away(time.Minute, 0)}, unhealthy, "it does not answer"},
		"well just in time":        {[]observation{seen(time.Minute-1, 1, ready), seen(time.Minute+settle, 1, ready)}, healthy, ""},
		"ends again and again":     {[]observation{away(time.Second, 1), away(9*time.Second, maxEnds)}, unhealthy, "ended 3 times"},
		"an unwell one is ignored": {[]observation{seen(0, 1, ready, starting, starting), seen(settle, 1, ready, ready, starting)}, waiting, ""},
	} {
		v := &vigil{timeout: time.Minute, ignore: []string{"c"}}
		var got verdict
		var reason string
		for _, o := range c.looks {
			got, reason = v.look(o)
		}
		if got != c.want || !strings.Contains(reason, c.reason) {
			t.Errorf("%s: %v %q, want %v %q", name, got, reason, c.want, c.reason)
		}
	}
	v := &vigil{timeout: time.Minute, ignore: []string{"b"}}
	v.look(seen(0, 1, ready, starting))
	if got, reason := v.look(seen(settle, 1, ready, starting)); got != healthy {
		t.Errorf("what was unwell before counts: %v %s", got, reason)
	}
}

func TestTrouble(t *testing.T) {
	t.Parallel()
	o := seen(0, 1, component.Restarting, component.Ready, component.Waiting, component.Failed, component.Starting)
	o.report.Components[0].Reason = "no disk"
	if got, want := o.trouble(nil), "a is restarting (no disk), c is waiting, d is failed, and 1 more"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := (observation{err: errors.New("odd")}).trouble(nil); got != "odd" {
		t.Errorf("%q", got)
	}
}
