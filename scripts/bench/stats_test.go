package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	t.Parallel()
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = 100 - i
	}
	for _, tt := range []struct {
		name   string
		values []int
		p      float64
		want   int
	}{
		{"none", nil, 50, 0},
		{"one", []int{7}, 99, 7},
		{"median of odd", []int{9, 1, 5}, 50, 5},
		{"median of even is the lower", []int{4, 1, 3, 2}, 50, 2},
		{"p50", hundred, 50, 50},
		{"p99", hundred, 99, 99},
		{"p100", hundred, 100, 100},
		{"p0", hundred, 0, 1},
	} {
		if got := percentile(tt.values, tt.p); got != tt.want {
			t.Errorf("%s: percentile = %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestLatencies(t *testing.T) {
	t.Parallel()
	l := latencies{each: []time.Duration{time.Millisecond, 3 * time.Millisecond}, wall: 4 * time.Millisecond}
	if got := l.perSecond(); got != 500 {
		t.Errorf("perSecond = %v", got)
	}
	if l.p50() != 1 || l.p99() != 3 {
		t.Errorf("p50 = %v, p99 = %v", l.p50(), l.p99())
	}
}

func TestRepeatDoesEachOperationOnce(t *testing.T) {
	t.Parallel()
	const n = 1000
	var done [n]atomic.Int32
	l, err := repeat(t.Context(), 16, n, func(_ context.Context, _, i int) error {
		done[i].Add(1)
		return nil
	})
	if err != nil || len(l.each) != n {
		t.Fatalf("repeat = %d latencies, %v", len(l.each), err)
	}
	for i := range done {
		if done[i].Load() != 1 {
			t.Errorf("operation %d was done %d times", i, done[i].Load())
		}
	}
}

func TestRepeatEndsAtTheFirstError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	var calls atomic.Int32
	_, err := repeat(t.Context(), 1, 100, func(_ context.Context, _, i int) error {
		calls.Add(1)
		if i == 3 {
			return broken
		}
		return nil
	})
	if !errors.Is(err, broken) || calls.Load() != 4 {
		t.Errorf("repeat: %v after %d calls", err, calls.Load())
	}
}
