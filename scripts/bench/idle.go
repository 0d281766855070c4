package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// idleBench measures what a server with one pod costs while nobody uses it, and
// whether it comes back to that after load.
type idleBench struct {
	settle, measure  time.Duration
	configMaps       int
	pods, podsAtOnce int
}

func (b *idleBench) flags(fs *flag.FlagSet) {
	fs.DurationVar(&b.settle, "settle", 2*time.Minute, "rest before each measurement")
	fs.DurationVar(&b.measure, "measure", 2*time.Minute, "length of each measurement")
	fs.IntVar(&b.configMaps, "configmaps", 5000, "ConfigMaps of 1 KiB that the load creates and deletes")
	fs.IntVar(&b.pods, "pods", 90, "pods that the load starts and ends")
	fs.IntVar(&b.podsAtOnce, "batch", 30, "pods at a time")
}

func (b *idleBench) run(ctx context.Context, c *cluster, r *report) error {
	if b.measure <= 0 || b.podsAtOnce < 1 {
		return errors.New("-measure and -batch must be above zero")
	}
	r.quiet()
	c.progress("starting a cluster with one pod")
	if err := c.up(ctx); err != nil {
		return err
	}
	n, err := c.node(ctx)
	if err != nil {
		return err
	}
	if _, err := probeStart(ctx, n); err != nil { // the first pod is the one pod
		return err
	}
	s, err := n.status(ctx)
	if err != nil {
		return err
	}
	before, err := b.observe(ctx, c, n)
	if err != nil {
		return err
	}
	loaded, err := b.load(ctx, c, n)
	if err != nil {
		return err
	}
	after, err := b.observe(ctx, c, n)
	if err != nil {
		return err
	}
	r.describe(fmt.Sprintf("Idle: one pod, settled %s, then measured %s", b.settle, b.measure), s)
	r.say("load in between: %d ConfigMaps of 1 KiB created and deleted, %d pods started and ended, %d at a time\n",
		b.configMaps, b.pods, b.podsAtOnce)
	printIdle(r, before, loaded, after)
	r.finish()
	return nil
}

// observe lets the node settle and measures it.
func (b *idleBench) observe(ctx context.Context, c *cluster, n *node) (usage, error) {
	c.progress("settling for %s", b.settle)
	if !sleep(ctx, b.settle) {
		return usage{}, ctx.Err()
	}
	c.progress("measuring for %s", b.measure)
	begin, err := n.counters()
	if err != nil {
		return usage{}, err
	}
	if !sleep(ctx, b.measure) {
		return usage{}, ctx.Err()
	}
	end, err := n.counters()
	if err != nil {
		return usage{}, err
	}
	processes, err := n.processes()
	if err != nil {
		return usage{}, err
	}
	return usage{footprint: sumMemory(processes), rates: rates(begin, end)}, nil
}

// load is what a busy day does to a small cluster, in a few minutes. It returns
// the memory right after.
func (b *idleBench) load(ctx context.Context, c *cluster, n *node) (footprint, error) {
	clients, err := n.clients(loadClients)
	if err != nil {
		return footprint{}, err
	}
	c.progress("load: %d ConfigMaps come and go", b.configMaps)
	if err := configMapsComeAndGo(ctx, clients, b.configMaps); err != nil {
		return footprint{}, err
	}
	for done := 0; done < b.pods; done += b.podsAtOnce {
		count := min(b.podsAtOnce, b.pods-done)
		c.progress("load: pods %d to %d of %d come and go", done+1, done+count, b.pods)
		if _, err := comeAndGo(ctx, clients[0], fmt.Sprintf("load-%d", done), count); err != nil {
			return footprint{}, err
		}
	}
	processes, err := n.processes()
	return sumMemory(processes), err
}

const loadClients = 16

func configMapsComeAndGo(ctx context.Context, clients []kubernetes.Interface, count int) error {
	objects := func(client int) configMaps {
		return configMaps{clients[client].CoreV1().ConfigMaps(metav1.NamespaceDefault)}
	}
	create := func(ctx context.Context, client, i int) error { return objects(client).create(ctx, i) }
	remove := func(ctx context.Context, client, i int) error { return objects(client).remove(ctx, i) }
	if _, err := repeat(ctx, len(clients), count, create); err != nil {
		return err
	}
	_, err := repeat(ctx, len(clients), count, remove)
	return err
}

// usage is what was seen in one measurement.
type usage struct {
	footprint
	rates usageRates
}

const mib = 1 << 20

// printIdle prints the two measurements side by side.
func printIdle(r *report, before usage, loaded footprint, after usage) {
	memoryRow := func(title, name string, of func(footprint) uint64, idle, later figure) []string {
		a, l, z := float64(of(before.footprint))/mib, float64(of(loaded))/mib, float64(of(after.footprint))/mib
		r.add("idle."+name, a, "MiB")
		r.add("idle.loaded."+name, l, "MiB")
		r.add("idle.after-load."+name, z, "MiB")
		return []string{title, short(a), idle.String(), idle.ratio(a), short(l), short(z), later.String(), later.ratio(z)}
	}
	rateRow := func(title, name, unit string, of func(usageRates) float64, idle figure) []string {
		a, z := of(before.rates), of(after.rates)
		r.add("idle."+name, a, unit)
		r.add("idle.after-load."+name, z, unit)
		return []string{title, short(a), idle.String(), idle.ratio(a), "", short(z), "–", "–"}
	}
	r.table([]string{"", "IDLE", "K3S*", "RATIO", "AFTER LOAD: AT ONCE", "SETTLED", "K3S*", "RATIO"}, [][]string{
		memoryRow("memory, PSS of all, MiB", "pss", func(f footprint) uint64 { return f.all().pss }, figure{492, 531}, exactly(1135)),
		memoryRow("  of it anonymous", "anonymous", func(f footprint) uint64 { return f.all().anonymous }, exactly(310), none()),
		memoryRow("  limpet (k3s with containerd)", "pss.limpet", func(f footprint) uint64 { return f.limpet.pss }, figure{477, 506}, none()),
		memoryRow("  shims", "pss.shims", func(f footprint) uint64 { return f.shims.pss }, exactly(17), none()),
		memoryRow("  pause", "pss.pause", func(f footprint) uint64 { return f.pause.pss }, none(), none()),
		rateRow("CPU of limpet, % of one core", "cpu", "%", func(u usageRates) float64 { return u.cpu }, figure{6, 7}),
		rateRow("CPU of the whole node, %", "cpu.node", "%", func(u usageRates) float64 { return u.nodeCPU }, none()),
		rateRow("written to the device, KiB/s", "written", "KiB/s", func(u usageRates) float64 { return u.device / 1024 }, exactly(19)),
		rateRow("  that is MiB an hour", "written-hour", "MiB/h", func(u usageRates) float64 { return u.device * 3600 / mib }, none()),
		rateRow("handed to write(2), KiB/s", "write-calls", "KiB/s", func(u usageRates) float64 { return u.calls / 1024 }, none()),
		rateRow("wake-ups (context switches) per second", "wakeups", "1/s", func(u usageRates) float64 { return u.switches }, none()),
	})
}
