package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpetio/limpet/internal/status"
)

// report is what a benchmark prints: tables, and after them the figures once
// more for programs.
type report struct {
	out     io.Writer
	results []result
}

// result is one figure.
type result struct {
	name  string // dotted, lower case: start.empty.readyz
	value float64
	unit  string // s, ms, op/s, MiB, %, B/s, 1/s
}

// add keeps a figure for the lines at the end.
func (r *report) add(name string, value float64, unit string) {
	r.results = append(r.results, result{name, value, unit})
}

// say prints a line that is not part of a table.
func (r *report) say(format string, args ...any) { fmt.Fprintf(r.out, format+"\n", args...) }

// table prints rows in columns.
func (r *report) table(header []string, rows [][]string) {
	tw := tabwriter.NewWriter(r.out, 0, 4, 3, ' ', 0)
	fmt.Fprintln(tw, strings.Join(header, "\t"))
	for _, row := range rows {
		fmt.Fprintln(tw, strings.Join(row, "\t"))
	}
	_ = tw.Flush() // whoever reads the output is gone
}

// finish prints what the peer's figures are, and all figures for programs.
func (r *report) finish() {
	r.say("\n%s\n", peerNote)
	r.figures()
}

// figures prints the figures for programs.
func (r *report) figures() {
	for _, x := range r.results {
		r.say("result %s %s %s", x.name, number(x.value), x.unit)
	}
}

// number prints a figure with enough digits to calculate with.
func number(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// describe prints what was measured, and on what. A machine that does something
// else meanwhile spoils every figure, so its load is part of the description.
func (r *report) describe(title string, s status.Report) {
	r.say("%s\n", title)
	r.say("limpet %s, Kubernetes %s", s.Version, s.Kubernetes)
	r.say("%s", machine())
}

func machine() string {
	var uts unix.Utsname
	_ = unix.Uname(&uts) // cannot fail with a valid pointer
	line := fmt.Sprintf("machine: %d cores, %s, Linux %s", runtime.NumCPU(), runtime.GOARCH, unix.ByteSliceToString(uts.Release[:]))
	if cpu := cpuModel(); cpu != "" {
		line += ", " + cpu
	}
	return line
}

func cpuModel() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// load1 is the machine's load average over the last minute.
func load1() float64 {
	var v float64
	if data, err := os.ReadFile("/proc/loadavg"); err == nil {
		_, _ = fmt.Sscan(string(data), &v)
	}
	return v
}

// quiet says what the machine did before the benchmark began.
func (r *report) quiet() {
	if l := load1(); l > 0.5 {
		r.say("note: the load average was %.1f before the start: something else runs here, and the figures suffer", l)
	}
}

// progress tells on standard error what is being done; the figures go to standard output.
func (c *cluster) progress(format string, args ...any) { progress(c.stderr, format, args...) }

func progress(stderr io.Writer, format string, args ...any) {
	fmt.Fprintf(stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
