package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"time"
)

// startBench measures how long it takes from exec until a server is of use.
type startBench struct{ n int }

func (b *startBench) flags(fs *flag.FlagSet) {
	fs.IntVar(&b.n, "n", 5, "number of starts on an empty and on an existing data directory")
}

// settle is the rest between two starts, so that the one does not pay for the other.
const settle = 3 * time.Second

// A milestone is a state that users wait for.
type milestone struct {
	name  string // of the result
	title string
	// k3s's figures on an empty and on an existing data directory, in seconds
	empty, existing figure
}

const (
	apiReady = iota
	nodeReady
	dnsAnswers
	accountThere
	firstPodRuns
	milestoneCount
)

// milestones in the order they are printed. For what each means see probeStart.
func milestones() [milestoneCount]milestone {
	return [...]milestone{
		apiReady:     {"readyz", "/readyz", figure{3.5, 4.7}, figure{3.9, 4.0}},
		nodeReady:    {"node-ready", "node Ready", figure{6.0, 6.5}, figure{5.9, 6.0}},
		dnsAnswers:   {"dns", "DNS answers", none(), none()},
		accountThere: {"service-account", "default ServiceAccount", figure{10.6, 11.7}, none()},
		firstPodRuns: {"first-pod", "first pod Running", figure{13, 27}, exactly(7.8)},
	}
}

// startRun is one start: when each milestone was reached after exec, and the
// steps that led there.
type startRun struct {
	at    [milestoneCount]time.Duration
	steps []step
}

// step is a moment of a start.
type step struct {
	at   time.Duration // after exec
	what string
}

func (b *startBench) run(ctx context.Context, c *cluster, r *report) error {
	if b.n < 1 {
		return errors.New("-n: at least one start")
	}
	r.quiet()
	var empty, existing []startRun
	for i := range b.n {
		c.progress("start %d of %d on an empty data directory", i+1, b.n)
		first, err := b.once(ctx, c, c.up)
		if err != nil {
			return fmt.Errorf("start on an empty data directory: %w", err)
		}
		if i == 0 {
			if err := b.describe(ctx, c, r); err != nil {
				return err
			}
		}
		if err := b.rest(ctx, c); err != nil {
			return err
		}
		c.progress("start %d of %d on an existing data directory", i+1, b.n)
		second, err := b.once(ctx, c, c.restart)
		if err != nil {
			return fmt.Errorf("start on an existing data directory: %w", err)
		}
		empty, existing = append(empty, first), append(existing, second)
		if err := c.down(ctx); err != nil {
			return err
		}
		if !sleep(ctx, settle) {
			return ctx.Err()
		}
	}
	b.print(r, empty, existing)
	return nil
}

// once starts a server and observes it until all milestones are reached.
func (b *startBench) once(ctx context.Context, c *cluster, start func(context.Context) error) (startRun, error) {
	if err := start(ctx); err != nil {
		return startRun{}, err
	}
	n, err := c.node(ctx)
	if err != nil {
		return startRun{}, err
	}
	return probeStart(ctx, n)
}

func (b *startBench) describe(ctx context.Context, c *cluster, r *report) error {
	n, err := c.node(ctx)
	if err != nil {
		return err
	}
	s, err := n.status(ctx)
	if err != nil {
		return err
	}
	r.describe(fmt.Sprintf("Start: seconds from exec, median of %d (lowest–highest)", b.n), s)
	return nil
}

// rest removes the pod, so that the next start has one pod to start too, and
// lets the machine come to rest.
func (b *startBench) rest(ctx context.Context, c *cluster) error {
	n, err := c.node(ctx)
	if err != nil {
		return err
	}
	if err := deleteFirstPod(ctx, n); err != nil {
		return err
	}
	if !sleep(ctx, settle) {
		return ctx.Err()
	}
	return nil
}

func (b *startBench) print(r *report, empty, existing []startRun) {
	rows := make([][]string, 0, milestoneCount)
	for i, m := range milestones() {
		row := []string{m.title}
		row = append(row, milestoneCells(r, "start.empty."+m.name, times(empty, i), m.empty)...)
		row = append(row, milestoneCells(r, "start.existing."+m.name, times(existing, i), m.existing)...)
		rows = append(rows, row)
	}
	r.say("")
	r.table([]string{"", "EMPTY DATA", "K3S*", "RATIO", "EXISTING DATA", "K3S*", "RATIO"}, rows)
	printSteps(r, "Where the time goes, empty data directory (the median run)", empty)
	printSteps(r, "Where the time goes, existing data directory (the median run)", existing)
	r.finish()
}

func times(runs []startRun, milestone int) []float64 {
	values := make([]float64, len(runs))
	for i, run := range runs {
		values[i] = seconds(run.at[milestone])
	}
	return values
}

// milestoneCells are the columns of one milestone: ours, k3s's, the ratio.
func milestoneCells(r *report, name string, values []float64, peer figure) []string {
	m := median(values)
	r.add(name, m, "s")
	ours := fmt.Sprintf("%.2f", m)
	if len(values) > 1 {
		ours += fmt.Sprintf(" (%.2f–%.2f)", slices.Min(values), slices.Max(values))
	}
	return []string{ours, peer.String(), peer.ratio(m)}
}

// printSteps prints the run whose first pod ran at the median time.
func printSteps(r *report, title string, runs []startRun) {
	sorted := slices.SortedFunc(slices.Values(runs), func(a, b startRun) int {
		return cmp.Compare(a.at[firstPodRuns], b.at[firstPodRuns])
	})
	printStepTable(r, title, sorted[(len(sorted)-1)/2].steps)
}

func printStepTable(r *report, title string, steps []step) {
	r.say("\n%s", title)
	rows := make([][]string, 0, len(steps))
	for _, s := range steps {
		rows = append(rows, []string{fmt.Sprintf("%8.2f", seconds(s.at)), s.what})
	}
	r.table([]string{" SECONDS", ""}, rows)
}
