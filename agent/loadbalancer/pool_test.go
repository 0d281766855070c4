package loadbalancer

import (
	"slices"
	"testing"
	"time"
)

// step is something that happens to a pool, a number of seconds after its start.
type step struct {
	at    float64
	addr  string
	state State
}

func TestPool(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		servers    []string
		steps      []step
		candidates []string
		abandoned  []string
		reached    bool
		wait       time.Duration // until the next probe after the last step; -1: for ever
	}{
		{"nothing is known: the order given", []string{"a", "b"}, nil,
			[]string{"a", "b"}, nil, false, 0},
		{"one healthy server is left alone", []string{"a"}, []step{{1, "a", Healthy}},
			[]string{"a"}, nil, true, -1},
		{"of several, each is asked now and then", []string{"a", "b"}, []step{{1, "a", Healthy}, {1, "b", Healthy}},
			[]string{"a", "b"}, nil, true, 30 * time.Second},
		{"the one in use stays in use", []string{"a", "b"}, []step{{1, "b", Healthy}, {2, "a", Healthy}},
			[]string{"b", "a"}, nil, true, 29 * time.Second},
		{"a failed one is left for a healthy one", []string{"a", "b"}, []step{{1, "a", Healthy}, {1, "b", Healthy}, {5, "a", Failed}},
			[]string{"b"}, []string{"a"}, true, 250 * time.Millisecond},
		{"back again, it is not taken up at once", []string{"a", "b"}, []step{{1, "a", Healthy}, {1, "b", Healthy}, {5, "a", Failed}, {9, "a", Healthy}},
			[]string{"b", "a"}, nil, true, 22 * time.Second},
		{"all failed: connections stay, for the path may come back", []string{"a"}, []step{{1, "a", Healthy}, {5, "a", Failed}},
			nil, nil, false, 250 * time.Millisecond},
		{"the pause doubles", []string{"a"}, []step{{1, "a", Failed}, {2, "a", Failed}, {3, "a", Failed}},
			nil, nil, false, time.Second},
		{"up to a limit", []string{"a"}, []step{{1, "a", Failed}, {2, "a", Failed}, {3, "a", Failed}, {4, "a", Failed}, {5, "a", Failed}, {6, "a", Failed}, {7, "a", Failed}},
			nil, nil, false, 5 * time.Second},
		{"one that starts comes last and is asked each second", []string{"a", "b"}, []step{{1, "a", Unready}, {1, "b", Healthy}},
			[]string{"b", "a"}, nil, true, time.Second},
		{"one that starts is better than none, but not reached", []string{"a"}, []step{{1, "a", Unready}, {2, "a", Unready}},
			[]string{"a"}, nil, false, time.Second},
		{"unless it says so for long", []string{"a"}, []step{{1, "a", Unready}, {31, "a", Unready}},
			[]string{"a"}, nil, true, time.Second},
		{"unknown servers come after healthy ones", []string{"a", "b"}, []step{{1, "b", Healthy}},
			[]string{"b", "a"}, nil, true, 0},
		{"strangers are ignored", []string{"a"}, []step{{1, "a", Healthy}, {2, "z", Healthy}},
			[]string{"a"}, nil, true, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			start := time.Unix(1000, 0)
			now := start
			var p pool
			p.set(tt.servers, now)
			for _, s := range tt.steps {
				now = start.Add(time.Duration(s.at * float64(time.Second)))
				p.report(s.addr, s.state, "", now)
			}
			if got := p.candidates(); !slices.Equal(got, tt.candidates) {
				t.Errorf("candidates %v, want %v", got, tt.candidates)
			}
			if got := p.abandoned(); !slices.Equal(got, tt.abandoned) {
				t.Errorf("abandoned %v, want %v", got, tt.abandoned)
			}
			if got := p.reached(now); got != tt.reached {
				t.Errorf("reached %t, want %t", got, tt.reached)
			}
			due, wait := p.due(now, func(string) bool { return false })
			if tt.wait == 0 && len(due) == 0 {
				t.Error("nobody is to be asked now")
			}
			if tt.wait != 0 && (len(due) > 0 || wait != tt.wait) {
				t.Errorf("to be asked: %v now, next in %v; want the next in %v", due, wait, tt.wait)
			}
		})
	}
}

func TestPoolSet(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	var p pool
	p.set([]string{"a", "b", "a"}, now)
	if got := p.addrs(); !slices.Equal(got, []string{"a", "b"}) {
		t.Fatalf("servers %v: one is there twice", got)
	}
	p.report("a", Healthy, "", now)
	p.report("b", Healthy, "", now)
	if gone := p.set([]string{"c", "b"}, now); !slices.Equal(gone, []string{"a"}) {
		t.Errorf("gone: %v, want a", gone)
	}
	if got := p.candidates(); !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("candidates %v: what was known of b is lost", got)
	}
	if p.active != "b" {
		t.Errorf("active: %q after the one in use has gone", p.active)
	}
}

func TestPoolSuspicion(t *testing.T) {
	t.Parallel()
	idle := func(string) bool { return false }
	now := time.Unix(1000, 0)
	var p pool
	p.set([]string{"a"}, now)
	p.report("a", Healthy, "", now)
	p.suspected("a", now.Add(100*time.Millisecond))
	if due, _ := p.due(now.Add(100*time.Millisecond), idle); len(due) > 0 {
		t.Error("a server that has just answered is asked again")
	}
	now = now.Add(2 * time.Second)
	p.suspected("a", now)
	if due, _ := p.due(now, idle); len(due) != 1 {
		t.Error("a suspect is not asked at once")
	}
	if due, _ := p.due(now, func(string) bool { return true }); len(due) != 0 {
		t.Error("a server is asked twice at the same time")
	}
	for range 10 {
		p.report("a", Failed, "", now)
	}
	p.demanded(now.Add(2 * time.Second))
	if due, _ := p.due(now.Add(2*time.Second), idle); len(due) != 1 {
		t.Error("a client waits, and nobody asks")
	}
	if !p.downSince.Equal(now) {
		t.Errorf("down since %v, want %v", p.downSince, now)
	}
}
