package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

func TestRepeatForEndsWithItsTime(t *testing.T) {
	t.Parallel()
	begun := 0
	l, err := repeatFor(t.Context(), 1, 1000, 20*time.Millisecond, func(context.Context, int, int) error {
		begun++
		time.Sleep(5 * time.Millisecond)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// None is begun after 20 ms, and each takes 5 ms at least.
	if begun == 0 || begun > 4 || len(l.each) != begun || slices.Min(l.each) < 5*time.Millisecond {
		t.Errorf("%d begun, latencies %v", begun, l.each)
	}
}

func TestContentIsItsOwn(t *testing.T) {
	t.Parallel()
	a, again, b := content(1, smallSize), content(1, smallSize), content(2, smallSize)
	if len(a) != smallSize || !bytes.Equal(a, again) || bytes.Equal(a, b) {
		t.Errorf("contents of %d and %d bytes", len(a), len(b))
	}
}

func TestPrefixEnd(t *testing.T) {
	t.Parallel()
	end := string(prefixEnd(listedPrefix))
	if key := listedKey(99_999_999); key >= end || end <= listedPrefix+"\xff" || !strings.HasPrefix(key, listedPrefix) {
		t.Errorf("the range of %s ends at %s, and has the key %s", listedPrefix, end, key)
	}
}

func TestClientsUpdateKeysOfTheirOwn(t *testing.T) {
	t.Parallel()
	for _, clients := range []int{1, manyClients} {
		s := &storeServer{updated: make([]int, manyClients)}
		owner, numbers := map[int]int{}, map[int]bool{}
		for n := range 2 * updatedKeys {
			client := n % clients
			key, number := s.nextUpdate(client, clients)
			if other, ok := owner[key]; key < 0 || key >= updatedKeys || ok && other != client || numbers[number] {
				t.Fatalf("%d clients: key %d, number %d for client %d, owner %d", clients, key, number, client, other)
			}
			owner[key], numbers[number] = client, true
		}
		if len(owner) != updatedKeys {
			t.Errorf("%d clients: %d keys are updated", clients, len(owner))
		}
	}
}

func TestRowsHaveNamesOfTheirOwn(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, row := range storeRows(10000) {
		if seen[row.name()] {
			t.Errorf("two rows are called %s", row.name())
		}
		seen[row.name()] = true
	}
	if !seen["create.c1"] || !seen["list.c16"] {
		t.Errorf("rows: %v", seen)
	}
}

func TestFanOutCompletesWhenAllHaveSeenIt(t *testing.T) {
	t.Parallel()
	f := &fanOut{broken: make(chan error, 1)}
	d := f.expect("key")
	var group errgroup.Group
	for watcher := range watcherCount {
		group.Go(func() error {
			f.seen(watcher, "another", d.begin)
			f.seen(watcher, "key", d.begin.Add(time.Duration(watcher+1)))
			return nil
		})
	}
	if err := f.await(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	each := f.takeLatencies()
	if len(each) != watcherCount || slices.Max(each) != watcherCount || slices.Min(each) != 1 {
		t.Errorf("latencies %v", each)
	}
	if again := f.takeLatencies(); len(again) != 0 {
		t.Errorf("latencies are there twice: %v", again)
	}
}

func TestFanOutEndsWithAWatcher(t *testing.T) {
	t.Parallel()
	f, gone := &fanOut{broken: make(chan error, 1)}, errors.New("gone")
	f.broken <- gone
	if err := f.await(t.Context(), f.expect("key")); !errors.Is(err, gone) {
		t.Errorf("await = %v", err)
	}
}

// ratesOf is a row in which limpet, etcd and kine-cgo had these rates.
func ratesOf(kind string, rates ...[]float64) storeResult {
	return storeResult{row: storeRow{kind: kind, title: kind, clients: 1}, rates: rates, each: make([][]time.Duration, len(rates))}
}

func TestRatioIsThatWithinARound(t *testing.T) {
	t.Parallel()
	// The machine became three times slower in the second round, for both.
	r := ratesOf("get", []float64{300, 100, 330}, []float64{100, 50, 110})
	if got := r.ratio(0, 1); got != 3 {
		t.Errorf("ratio = %v", got)
	}
	if got := ratesOf("get", []float64{300}, []float64{0}).ratio(0, 1); got != 0 {
		t.Errorf("ratio to nothing = %v", got)
	}
}

func TestStoresAreReportedWithRatiosAndGoals(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	servers := []*storeServer{
		{storeKind: storeKind{key: ours, title: "limpet FULL"}},
		{storeKind: storeKind{key: "etcd", title: "etcd fsync"}},
		{storeKind: storeKind{key: "kine-cgo", title: "kine"}},
	}
	results := []storeResult{
		ratesOf("create", []float64{90}, []float64{100}, []float64{300}),
		ratesOf("list", []float64{800}, []float64{400}, []float64{80}),
	}
	costs := []storeCost{
		{name: "bytes600.c1", title: "update", each: []float64{5000, 6000, 45000}},
		{name: compactionCost, title: "compaction", each: []float64{5, 6, 7}}, // no goal
	}
	idles := []storeIdle{{wakeUps: 5, over: time.Minute}, {wakeUps: 600}, {wakeUps: 60}}
	printStores(&report{out: &out}, servers, results, costs, idles)
	for _, want := range []string{
		"\nratio ours/etcd.create.c1 0.900\n", "\nratio ours/kine-cgo.list.c1 10.000\n", "\nratio kine-cgo/ours.bytes600.c1 9.000\n",
		"every row: missed by create.c1 0.90\n", "lists of kine-cgo: met\n", "bytes of kine-cgo: met\n", "runtime): missed by 5\n",
		"\nresult limpet.create.c1 90.000 op/s\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}

func TestStoresAreReportedWithoutOurs(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	servers := []*storeServer{{storeKind: storeKind{key: "etcd", title: "etcd"}}}
	printStores(&report{out: &out}, servers, []storeResult{ratesOf(fanOutKind, []float64{5})}, nil, []storeIdle{{wakeUps: 1}})
	if text := out.String(); !strings.Contains(text, "result etcd.watch.c1 5.000 op/s") || strings.Contains(text, "ratio") || strings.Contains(text, "goal:") {
		t.Errorf("report:\n%s", text)
	}
}
