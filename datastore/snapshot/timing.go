package snapshot

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// DefaultSchedule is every six hours: at most as much is lost, and for a
// database of 20 MiB it writes about 100 MiB a day.
const DefaultSchedule = "6h"

// minPeriod keeps a slip of the pen from wearing out flash storage.
const minPeriod = time.Minute

// Timing says when snapshots are taken: each period after the last one, or at
// the times of a cron expression.
type Timing struct {
	spec  string
	every time.Duration
	cron  cron.Schedule
}

func (t Timing) String() string { return t.spec }

// ParseSchedule understands a duration ("6h") and what k3s does: the five fields
// of cron in local time ("0 */12 * * *"), and "@daily" and the like.
func ParseSchedule(spec string) (Timing, error) {
	t, err := parseSchedule(strings.TrimSpace(spec))
	if err != nil {
		return Timing{}, fmt.Errorf("snapshot schedule %q: %w; give a duration like 6h or a cron expression like \"0 */6 * * *\"", spec, err)
	}
	return t, nil
}

func parseSchedule(spec string) (Timing, error) {
	t := Timing{spec: spec}
	if d, err := time.ParseDuration(strings.TrimPrefix(spec, "@every ")); err == nil {
		if d < minPeriod {
			return t, fmt.Errorf("the period is shorter than %s", minPeriod)
		}
		t.every = d
		return t, nil
	}
	if strings.HasPrefix(spec, "@every") {
		return t, errors.New("there is no duration after @every")
	}
	if strings.Contains(spec, "TZ=") && !strings.Contains(spec, " ") {
		return t, errors.New("there is nothing after the time zone") // the parser would panic
	}
	var err error
	if t.cron, err = cron.ParseStandard(spec); err != nil {
		return t, err
	}
	if t.cron.Next(time.Now()).IsZero() {
		return t, errors.New("there is no such day")
	}
	return t, nil
}

// next returns the regular time that follows now.
func (t Timing) next(now time.Time) time.Time {
	if t.cron == nil {
		return now.Add(t.every)
	}
	return t.cron.Next(now)
}

// first returns the time of the first snapshot after a start, when the newest
// one is of newest (zero: there is none). One that was missed is made up for
// at once; with one that is fresh, a restart changes nothing.
func (t Timing) first(newest, now time.Time) time.Time {
	switch {
	case newest.IsZero():
		return now
	case newest.After(now): // the clock was set back
		return t.next(now)
	}
	if due := t.next(newest); due.After(now) {
		return due
	}
	return now
}
