package main

import (
	"cmp"
	"slices"
	"time"
)

// percentile is the smallest value that at least p percent of the values do not
// exceed (nearest rank); 0 of none.
func percentile[T cmp.Ordered](values []T, p float64) T {
	var zero T
	if len(values) == 0 {
		return zero
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(p/100*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// median is the 50th percentile.
func median[T cmp.Ordered](values []T) T { return percentile(values, 50) }

func seconds(d time.Duration) float64 { return d.Seconds() }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// latencies are the durations of the operations of one measurement.
type latencies struct {
	each []time.Duration
	wall time.Duration // from the first one's start to the last one's end
}

// perSecond is the number of operations a second.
func (l latencies) perSecond() float64 {
	if l.wall <= 0 {
		return 0
	}
	return float64(len(l.each)) / l.wall.Seconds()
}

func (l latencies) p50() float64 { return milliseconds(percentile(l.each, 50)) }
func (l latencies) p99() float64 { return milliseconds(percentile(l.each, 99)) }
