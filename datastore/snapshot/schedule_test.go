package snapshot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func mustParse(t *testing.T, spec string) Timing {
	t.Helper()
	timing, err := ParseSchedule(spec)
	if err != nil {
		t.Fatal(err)
	}
	return timing
}

func TestParseSchedule(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.Local)
	for spec, want := range map[string]time.Time{
		"6h": now.Add(6 * time.Hour), " 90m ": now.Add(90 * time.Minute), "@every 2h": now.Add(2 * time.Hour),
		"0 */12 * * *": time.Date(2030, 1, 2, 12, 0, 0, 0, time.Local), "@daily": time.Date(2030, 1, 3, 0, 0, 0, 0, time.Local),
		"CRON_TZ=UTC 30 5 * * *": time.Date(2030, 1, 2, 5, 30, 0, 0, time.UTC),
	} {
		if got := mustParse(t, spec).next(now); !got.Equal(want) {
			t.Errorf("%q: %v, want %v", spec, got, want)
		}
	}
	for _, spec := range []string{"", "6", "59s", "-6h", "* * *", "61 * * * *", "TZ=UTC", "CRON_TZ=", "0 0 31 2 *", "@every", "@every x", "@every 5s", "@sometimes"} {
		_, err := ParseSchedule(spec)
		assertError(t, err, nil, "snapshot schedule", "give a duration like 6h")
	}
}

func FuzzParseSchedule(f *testing.F) {
	for _, s := range []string{"6h", "0 */12 * * *", "TZ=UTC 0 0 * * *", "@every 1h", "TZ="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		timing, err := ParseSchedule(spec)
		if err != nil {
			return
		}
		if now := time.Now(); !timing.next(now).After(now) {
			t.Errorf("%q comes at %v, which is not after %v", spec, timing.next(now), now)
		}
	})
}

func TestFirst(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 2, 3, 0, 0, 0, time.Local)
	for _, tc := range []struct {
		spec          string
		newest, after time.Duration
	}{
		{"6h", -2 * time.Hour, 4 * time.Hour},
		{"6h", -7 * time.Hour, 0},
		{"6h", 500 * time.Hour, 6 * time.Hour}, // the clock was set back
		{"0 2 * * *", -30 * time.Minute, 23 * time.Hour},
		{"0 2 * * *", -2 * time.Hour, 0}, // missed
		{"0 2 * * *", 500 * time.Hour, 23 * time.Hour},
	} {
		if got := mustParse(t, tc.spec).first(now.Add(tc.newest), now).Sub(now); got != tc.after {
			t.Errorf("%q with a snapshot of %v: %v, want %v", tc.spec, tc.newest, got, tc.after)
		}
	}
	if got := mustParse(t, "6h").first(time.Time{}, now); !got.Equal(now) {
		t.Errorf("without a snapshot: %v", got)
	}
}

// run starts a scheduler in a synctest bubble, and stops it at the end.
func run(t *testing.T, o SchedulerOptions) *Scheduler {
	t.Helper()
	o.Node = "edge-1"
	s := NewScheduler(o)
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	<-ready
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func pass(d time.Duration) {
	time.Sleep(d) // the bubble's clock
	synctest.Wait()
}

func TestScheduler(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, dir := newLog(t, 10), t.TempDir()
		var revision atomic.Int64
		revision.Store(10)
		s := run(t, SchedulerOptions{Source: log, Dir: dir, Timing: mustParse(t, "6h"), Retention: 2, Revision: revision.Load})
		expect := func(taken, skipped int64, count int) Status {
			t.Helper()
			st := s.Status()
			if st.Taken != taken || st.Skipped != skipped || st.Count != count || st.Failed != 0 || st.Error != "" {
				t.Fatalf("unexpected %+v", st)
			}
			return st
		}
		pass(59 * time.Second)
		if _, ok := expect(0, 0, 0).Age(time.Now()); ok {
			t.Error("an age without a snapshot")
		}
		pass(2 * time.Second) // there is none, so it is due at the start
		first := expect(1, 0, 1)
		if age, ok := first.Age(time.Now()); !ok || age != time.Second || first.Bytes != first.Newest.Bytes || first.Newest.Reason != Scheduled {
			t.Errorf("unexpected %+v, %v", first, age)
		}
		if want := time.Now().Add(6*time.Hour - time.Second); !first.Next.Equal(want) {
			t.Errorf("next at %v, want %v", first.Next, want)
		}
		pass(6 * time.Hour) // nothing has changed
		if age, _ := expect(1, 1, 1).Age(time.Now()); age > time.Minute {
			t.Errorf("age %v", age)
		}
		for i := range 4 {
			log.put(t, 10+i, 11+i)
			revision.Store(log.rev)
			pass(6 * time.Hour)
		}
		st := expect(5, 1, 2)
		if _, err := s.Take(t.Context(), Manual); err != nil {
			t.Error(err)
		}
		if err := os.Remove(st.Newest.Path); err != nil { // by somebody
			t.Error(err)
		}
		if st = expect(6, 1, 3); st.Newest.Reason != Manual {
			t.Errorf("newest %+v", st.Newest)
		}
	})
}

func TestRestartTakesNoSnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, dir := newLog(t, 10), t.TempDir()
		mustSave(t, log, dir, SaveOptions{Reason: Scheduled})
		mustSave(t, log, dir, SaveOptions{Reason: Scheduled, Node: "edge-2"})
		pass(5 * time.Hour)
		s := run(t, SchedulerOptions{Source: log, Dir: dir, Timing: mustParse(t, "6h")})
		if age, ok := s.Status().Age(time.Now()); !ok || age != 5*time.Hour {
			t.Errorf("age %v", age)
		}
		pass(59 * time.Minute)
		if st := s.Status(); st.Taken != 0 || st.Count != 2 {
			t.Errorf("unexpected %+v", st)
		}
		pass(2 * time.Minute)
		if st := s.Status(); st.Taken != 1 {
			t.Errorf("unexpected %+v", st)
		}
	})
}

func TestSchedulerSurvivesFailures(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, dir := newLog(t, 10), filepath.Join(t.TempDir(), "snapshots")
		var broken atomic.Bool
		source := brokenSource(func(ctx context.Context, path string) error {
			if broken.Load() {
				return errors.New("no luck")
			}
			return log.Backup(ctx, path)
		})
		s := run(t, SchedulerOptions{Source: source, Dir: dir, Timing: mustParse(t, "0 * * * *"), Retention: 1})
		pass(61 * time.Second)
		if st := s.Status(); st.Taken != 1 {
			t.Fatalf("unexpected %+v", st)
		}
		broken.Store(true)
		pass(3 * time.Hour)
		st := s.Status()
		if st.Failed != 3 || st.Error == "" || st.Failure.IsZero() || st.Count != 1 {
			t.Errorf("unexpected %+v", st)
		}
		if age, _ := st.Age(time.Now()); age < 3*time.Hour {
			t.Errorf("age %v", age)
		}
		assertOnly(t, dir, st.Newest.Name)
		broken.Store(false)
		pass(time.Hour)
		if st = s.Status(); st.Taken != 2 || st.Error != "" || st.Failed != 3 {
			t.Errorf("unexpected %+v", st)
		}
	})
}
