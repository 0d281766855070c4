package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/status"
)

func TestFigure(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		figure      figure
		value       float64
		text, ratio string
	}{
		{none(), 5, "–", "–"},
		{exactly(7.8), 3.9, "7.80", "0.50"},
		{figure{13, 27}, 6.5, "13.0–27.0", "0.24–0.50"},
		{figure{320, 365}, 730, "320–365", "2.00–2.28"},
	} {
		if got := tt.figure.String(); got != tt.text {
			t.Errorf("%v: String = %q, want %q", tt.figure, got, tt.text)
		}
		if got := tt.figure.ratio(tt.value); got != tt.ratio {
			t.Errorf("%v: ratio(%v) = %q, want %q", tt.figure, tt.value, got, tt.ratio)
		}
	}
}

func TestReportRepeatsTheFiguresForPrograms(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r := &report{out: &out}
	r.add("start.empty.readyz", 1.25, "s")
	r.add("api.get.c16", 12345.6, "op/s")
	r.finish()
	for _, want := range []string{"measured elsewhere", "\nresult start.empty.readyz 1.250 s\n", "\nresult api.get.c16 12346 op/s\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}

func TestStepsAreInTheOrderOfTime(t *testing.T) {
	t.Parallel()
	started := time.Unix(1000, 0)
	report := status.Report{
		Started: started.Add(100 * time.Millisecond),
		Components: []component.State{
			{Name: "kubelet", ReadyAfter: 3 * time.Second, Took: time.Second},
			{Name: "datastore", ReadyAfter: 400 * time.Millisecond, Took: 300 * time.Millisecond, History: []component.Transition{
				{Phase: component.Waiting, At: started}, {Phase: component.Starting, At: started.Add(200 * time.Millisecond)},
			}},
			{Name: "never-ready"},
		},
	}
	var run startRun
	for i := range run.at {
		run.at[i] = 10 * time.Second
	}
	run.at[apiReady] = 2 * time.Second
	list := steps(run, report, started)
	var order []string
	for _, s := range list[:4] {
		order = append(order, s.what)
	}
	want := "limpet's main: configuration, payload, certificates|" +
		"datastore is ready, began at 0.20, took 0.30|→ /readyz|kubelet is ready, took 1.00"
	if got := strings.Join(order, "|"); got != want {
		t.Errorf("steps are\n%s\nwant\n%s", got, want)
	}
	if len(list) != 3+milestoneCount {
		t.Errorf("%d steps, want %d", len(list), 3+milestoneCount)
	}
}
