package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// storeResult is what was measured in a row; rates and each are by server, rates
// then by round.
type storeResult struct {
	row   storeRow
	rates [][]float64       // operations per second
	each  [][]time.Duration // of all rounds
}

// The product's goals, which stand beside the figures.
const (
	goalOfEtcd  = 1.0 // operations per second, of etcd's, at least
	goalOfLists = 8.0 // of kine's
	goalOfBytes = 8.0 // kine's bytes per update, of ours
)

// rate is the median of a server's rounds.
func (r storeResult) rate(server int) float64 { return median(r.rates[server]) }

// ratio is that of two servers' operations per second: the median of the ratios
// of each round, in which they were measured one right after the other.
func (r storeResult) ratio(a, b int) float64 {
	var ratios []float64
	for round := range min(len(r.rates[a]), len(r.rates[b])) {
		if r.rates[b][round] > 0 {
			ratios = append(ratios, r.rates[a][round]/r.rates[b][round])
		}
	}
	return median(ratios)
}

func (r storeResult) latency(server int) latencies { return latencies{each: r.each[server]} }

// storeTable prints what was measured of some servers.
type storeTable struct {
	*report
	servers []string // keys
	titles  []string
	our     int // index of limpet; -1 if it was not measured
	ratios  []string
}

func printStores(r *report, servers []*storeServer, results []storeResult, costs []storeCost, idles []storeIdle) {
	t := &storeTable{report: r}
	for _, s := range servers {
		t.servers, t.titles = append(t.servers, s.key), append(t.titles, strings.ToUpper(s.title))
	}
	t.our = slices.Index(t.servers, ours)
	t.printRates(results)
	t.printLatencies(results)
	t.printCosts(costs)
	t.printIdle(idles)
	for _, line := range t.goals(results, costs, idles) {
		r.say("goal: %s", line)
	}
	r.say("")
	r.figures()
	for _, line := range t.ratios {
		r.say("%s", line)
	}
}

// peers are the servers that ours is compared with.
func (t *storeTable) peers() []int {
	var list []int
	for i, key := range t.servers {
		if t.our >= 0 && key != ours {
			list = append(list, i)
		}
	}
	return list
}

// ratio keeps a ratio for the lines at the end, and returns it as a cell. The
// name says what is divided by what.
func (t *storeTable) ratio(above, below, name string, value float64) string {
	t.ratios = append(t.ratios, fmt.Sprintf("ratio %s/%s.%s %.3f", above, below, name, value))
	return fmt.Sprintf("%.2f", value)
}

func (t *storeTable) printRates(results []storeResult) {
	header := append([]string{"OPERATIONS PER SECOND", "CLIENTS"}, t.titles...)
	for _, p := range t.peers() {
		header = append(header, "OURS/"+strings.ToUpper(t.servers[p]))
	}
	var rows [][]string
	for _, result := range results {
		row := []string{result.row.title, strconv.Itoa(result.row.clients)}
		for i, key := range t.servers {
			t.add(key+"."+result.row.name(), result.rate(i), "op/s")
			row = append(row, short(result.rate(i)))
		}
		for _, p := range t.peers() {
			row = append(row, t.ratio("ours", t.servers[p], result.row.name(), result.ratio(t.our, p)))
		}
		rows = append(rows, row)
	}
	t.section(header, rows)
}

func (t *storeTable) printLatencies(results []storeResult) {
	var rows [][]string
	for _, result := range results {
		row := []string{result.row.title, strconv.Itoa(result.row.clients)}
		for i, key := range t.servers {
			l := result.latency(i)
			t.add(key+"."+result.row.name()+".p50", l.p50(), "ms")
			t.add(key+"."+result.row.name()+".p99", l.p99(), "ms")
			row = append(row, short(l.p50())+" / "+short(l.p99()))
		}
		if result.row.kind == fanOutKind {
			for _, p := range t.peers() {
				t.ratio(t.servers[p], "ours", result.row.name()+".p50", result.latency(p).p50()/result.latency(t.our).p50())
			}
		}
		rows = append(rows, row)
	}
	t.section(append([]string{"P50 / P99 IN MS", "CLIENTS"}, t.titles...), rows)
}

func (t *storeTable) printCosts(costs []storeCost) {
	header := append([]string{"BYTES WRITTEN, TO THE DEVICE"}, t.titles...)
	for _, p := range t.peers() {
		header = append(header, strings.ToUpper(t.servers[p])+"/OURS")
	}
	var rows [][]string
	for _, cost := range costs {
		row := []string{cost.title}
		for i, key := range t.servers {
			t.add(key+"."+cost.name, cost.each[i], "B")
			row = append(row, short(cost.each[i]))
		}
		for _, p := range t.peers() {
			row = append(row, t.ratio(t.servers[p], "ours", cost.name, cost.each[p]/cost.each[t.our]))
		}
		rows = append(rows, row)
	}
	t.section(header, rows)
}

func (t *storeTable) printIdle(idles []storeIdle) {
	rows := [][]string{{"wake-ups"}, {"bytes to the device"}, {"CPU time, ms"}, {"memory, MiB (PSS)"}}
	for i, idle := range idles {
		key := t.servers[i] + ".idle."
		t.add(key+"wakeups", float64(idle.wakeUps), "1")
		t.add(key+"bytes", float64(idle.device), "B")
		t.add(key+"cpu", milliseconds(idle.cpu), "ms")
		t.add(key+"memory", float64(idle.memory.pss)/(1<<20), "MiB")
		for n, cell := range []string{
			strconv.FormatUint(idle.wakeUps, 10), strconv.FormatUint(idle.device, 10),
			short(milliseconds(idle.cpu)), short(float64(idle.memory.pss) / (1 << 20)),
		} {
			rows[n] = append(rows[n], cell)
		}
	}
	if len(idles) > 0 {
		t.section(append([]string{fmt.Sprintf("IDLE, %d WATCHES", watcherCount)}, t.titles...), rows)
	}
}

func (t *storeTable) section(header []string, rows [][]string) {
	if len(rows) > 0 {
		t.table(header, rows)
		t.say("")
	}
}

// goals says of each goal whether it is met, and what misses it.
func (t *storeTable) goals(results []storeResult, costs []storeCost, idles []storeIdle) []string {
	var lines []string
	for _, p := range t.peers() {
		peer := t.servers[p]
		var missed, missedLists, missedBytes []string
		for _, r := range results {
			name, ratio := r.row.name(), r.ratio(t.our, p)
			if ratio < goalOfEtcd {
				missed = append(missed, fmt.Sprintf("%s %.2f", name, ratio))
			}
			if ratio < goalOfLists && (r.row.kind == "list" || r.row.kind == "page") {
				missedLists = append(missedLists, fmt.Sprintf("%s %.2f", name, ratio))
			}
		}
		for _, c := range costs {
			if ratio := c.each[p] / c.each[t.our]; c.goal() && ratio < goalOfBytes {
				missedBytes = append(missedBytes, fmt.Sprintf("%s %.2f", c.name, ratio))
			}
		}
		if peer == "etcd" {
			lines = append(lines, verdict("at least etcd's operations per second in every row", missed))
			continue
		}
		lines = append(lines,
			verdict(fmt.Sprintf("%.0f times the lists of %s", goalOfLists, peer), missedLists),
			verdict(fmt.Sprintf("at most 1/%.0f of the bytes of %s", goalOfBytes, peer), missedBytes))
	}
	if t.our >= 0 && len(idles) > 0 {
		var missed []string
		idle := idles[t.our]
		if idle.wakeUps > idle.runtimes() {
			missed = append(missed, strconv.FormatUint(idle.wakeUps, 10))
		}
		lines = append(lines, verdict(fmt.Sprintf("no wake-ups of its own while idle (up to %d are those of Go's runtime)", idle.runtimes()), missed))
	}
	return lines
}

func verdict(goal string, missed []string) string {
	if len(missed) == 0 {
		return goal + ": met"
	}
	return goal + ": missed by " + strings.Join(missed, ", ")
}
