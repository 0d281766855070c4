package main

import "fmt"

// peerNote says what the peer's column is. k3s cannot be built and run beside
// limpet here, so its figures are constants: whoever compares must know that.
const peerNote = "* k3s 1.36, measured elsewhere on 2 cores (one node, its DNS and add-ons switched off); not part of this run.\n" +
	"  The ratio is ours to k3s's: below 1 is less time or memory, above 1 is more operations per second."

// figure is a published figure as a range; low equals high where one was given.
type figure struct{ low, high float64 }

func exactly(v float64) figure { return figure{v, v} }

// none: k3s published nothing to compare with.
func none() figure { return figure{} }

// String prints the range, "–" for none.
func (f figure) String() string {
	switch {
	case f == none():
		return "–"
	case f.low == f.high:
		return short(f.low)
	default:
		return short(f.low) + "–" + short(f.high)
	}
}

// ratio is v over the figure: two numbers for a range.
func (f figure) ratio(v float64) string {
	if f == none() || f.low <= 0 {
		return "–"
	}
	low, high := fmt.Sprintf("%.2f", v/f.high), fmt.Sprintf("%.2f", v/f.low)
	if low == high {
		return low
	}
	return low + "–" + high
}

// short prints three significant digits, as far as they mean anything.
func short(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
