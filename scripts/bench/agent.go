package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// agentBench measures agents: how long one takes to join and to be of use, and
// what it costs while nothing happens, with a DNS server of its own and without.
//
// Every node of scripts/cluster has a copy of the binary, so that an agent
// shares no pages with the server or with another agent: its PSS is what it would be on a machine of its own.
type agentBench struct {
	n, nodes        int
	services        int
	settle, measure time.Duration
}

func (b *agentBench) flags(fs *flag.FlagSet) {
	fs.IntVar(&b.n, "n", 5, "number of joins, and of starts of an agent that has joined before")
	fs.IntVar(&b.nodes, "nodes", 3, "nodes of the cluster whose start is timed as a whole; 0: none")
	fs.IntVar(&b.services, "services", 0, "Services with three endpoints each that the idle agents know")
	fs.DurationVar(&b.settle, "settle", time.Minute, "rest before the measurement of idle agents")
	fs.DurationVar(&b.measure, "measure", time.Minute, "length of that measurement")
}

// idleAgents are the agents with and without a DNS server of their own.
type idleAgents struct{ with, without usage }

func (b *agentBench) run(ctx context.Context, c *cluster, r *report) error {
	if b.n < 1 || b.measure <= 0 {
		return errors.New("-n and -measure must be above zero")
	}
	r.quiet()
	whole, err := b.wholeCluster(ctx, c)
	if err != nil {
		return err
	}
	c.progress("starting the server")
	if err := c.up(ctx); err != nil {
		return err
	}
	server, err := c.node(ctx)
	if err != nil {
		return err
	}
	if _, err := probeStart(ctx, server); err != nil {
		return err
	}
	s, err := server.status(ctx)
	if err != nil {
		return err
	}
	r.describe(fmt.Sprintf("Agent: seconds from exec, median of %d (lowest–highest); idle: one pod on each, settled %s, then measured %s", b.n, b.settle, b.measure), s)
	var joins, starts []agentRun
	for i := range b.n {
		c.progress("join %d of %d", i+1, b.n)
		name := fmt.Sprintf("n%d", i+2) // a node that has joined keeps its name
		join, start, err := b.joinAndStart(ctx, c, server, name)
		if err != nil {
			return fmt.Errorf("node %s: %w", name, err)
		}
		joins, starts = append(joins, join), append(starts, start)
		if err := c.script(ctx, "halt", name); err != nil {
			return err
		}
	}
	idle, err := b.idle(ctx, c, server)
	if err != nil {
		return err
	}
	printAgent(r, joins, starts, idle)
	if b.nodes > 0 {
		r.add("agent.cluster-ready", seconds(whole), "s")
		r.say("\n%d nodes, from `scripts/cluster up` until all are Ready: %s s", b.nodes, short(seconds(whole)))
	}
	r.finish()
	return nil
}

// wholeCluster times a cluster from nothing to all nodes Ready.
func (b *agentBench) wholeCluster(ctx context.Context, c *cluster) (time.Duration, error) {
	if b.nodes == 0 {
		return 0, nil
	}
	c.progress("a cluster of %d nodes", b.nodes)
	begin := time.Now()
	if err := c.script(ctx, append([]string{"up", "--nodes", fmt.Sprint(b.nodes)}, c.args...)...); err != nil {
		return 0, err
	}
	took := time.Since(begin)
	if err := c.down(ctx); err != nil {
		return 0, err
	}
	if !sleep(ctx, settle) {
		return 0, ctx.Err()
	}
	return took, nil
}

// joinAndStart adds a node, and boots it anew when it has joined.
func (b *agentBench) joinAndStart(ctx context.Context, c *cluster, server *node, name string) (join, start agentRun, err error) {
	agent, err := c.addAgent(ctx, name)
	if err != nil {
		return join, start, err
	}
	if join, err = probeAgent(ctx, server, agent, name); err != nil {
		return join, start, err
	}
	if err := deletePod(ctx, server, podOn(name)); err != nil {
		return join, start, err
	}
	if !sleep(ctx, settle) {
		return join, start, ctx.Err()
	}
	for _, args := range [][]string{{"stop", name}, {"reboot", name}} {
		if !sleep(ctx, 2*time.Second) { // heartbeats are whole seconds; see cluster.restart
			return join, start, ctx.Err()
		}
		if err := c.script(ctx, args...); err != nil {
			return join, start, err
		}
	}
	if agent, err = c.nodeNamed(ctx, name); err != nil {
		return join, start, err
	}
	if start, err = probeAgent(ctx, server, agent, name); err != nil {
		return join, start, err
	}
	return join, start, nil
}

// idle adds an agent with and one without a DNS server, and measures both at the same time.
func (b *agentBench) idle(ctx context.Context, c *cluster, server *node) (idleAgents, error) {
	if err := createServices(ctx, server, b.services); err != nil {
		return idleAgents{}, err
	}
	c.progress("two idle agents, settling for %s", b.settle)
	// Named after those that have joined before.
	names := []string{fmt.Sprintf("n%d", b.n+2), fmt.Sprintf("n%d", b.n+3)}
	flags := [][]string{nil, {"--disable-node-local-dns"}}
	agents := make([]*node, len(names))
	for i, name := range names {
		var err error
		if agents[i], err = c.addAgent(ctx, name, flags[i]...); err != nil {
			return idleAgents{}, err
		}
		if _, err := probeAgent(ctx, server, agents[i], name); err != nil {
			return idleAgents{}, err
		}
	}
	if !sleep(ctx, b.settle) {
		return idleAgents{}, ctx.Err()
	}
	c.progress("measuring for %s", b.measure)
	begin := make([]counters, len(agents))
	for i, a := range agents {
		var err error
		if begin[i], err = a.counters(); err != nil {
			return idleAgents{}, err
		}
	}
	if !sleep(ctx, b.measure) {
		return idleAgents{}, ctx.Err()
	}
	used := make([]usage, len(agents))
	for i := range agents {
		end, err := agents[i].counters()
		if err != nil {
			return idleAgents{}, err
		}
		processes, err := agents[i].processes()
		if err != nil {
			return idleAgents{}, err
		}
		used[i] = usage{footprint: sumMemory(processes), rates: rates(begin[i], end)}
	}
	return idleAgents{with: used[0], without: used[1]}, nil
}

// addAgent adds a node that joins the server.
func (c *cluster) addAgent(ctx context.Context, name string, flags ...string) (*node, error) {
	server, err := c.node(ctx)
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(server.path("/var/lib/limpet/server/token"))
	if err != nil {
		return nil, fmt.Errorf("join token: %w", err)
	}
	ip, err := os.ReadFile(filepath.Join(c.dir, nodeName, "ip"))
	if err != nil {
		return nil, fmt.Errorf("address of the server: %w", err)
	}
	args := []string{"add", name, "agent", "--server", "https://" + strings.TrimSpace(string(ip)) + ":6443", "--token", strings.TrimSpace(string(token))}
	if err := c.script(ctx, append(args, flags...)...); err != nil {
		return nil, err
	}
	return c.nodeNamed(ctx, name)
}

// printAgent prints what was measured.
func printAgent(r *report, joins, starts []agentRun, idle idleAgents) {
	rows := make([][]string, 0, agentMilestoneCount)
	for i, m := range agentMilestones() {
		row := []string{m.title}
		row = append(row, milestoneCells(r, "agent.join."+m.name, agentTimes(joins, i), m.empty)...)
		row = append(row, milestoneCells(r, "agent.start."+m.name, agentTimes(starts, i), m.existing)...)
		rows = append(rows, row)
	}
	r.say("")
	r.table([]string{"", "JOIN", "K3S*", "RATIO", "START AGAIN", "K3S*", "RATIO"}, rows)
	printAgentSteps(r, "Where the time goes, joining (the median run)", joins)
	printAgentSteps(r, "Where the time goes, starting again (the median run)", starts)

	row := func(title, name, unit string, of func(usage) float64, peer figure) []string {
		a, z := of(idle.with), of(idle.without)
		r.add("agent.idle."+name, a, unit)
		r.add("agent.idle.no-dns."+name, z, unit)
		return []string{title, short(a), short(z), peer.String(), peer.ratio(a), peer.ratio(z)}
	}
	r.say("\nIdle")
	r.table([]string{"", "WITH DNS", "WITHOUT", "K3S*, WITHOUT", "RATIO", "RATIO"}, [][]string{
		row("memory of limpet, PSS, MiB", "pss", "MiB", func(u usage) float64 { return float64(u.limpet.pss) / mib }, exactly(236)),
		row("  of it anonymous", "anonymous", "MiB", func(u usage) float64 { return float64(u.limpet.anonymous) / mib }, exactly(80)),
		row("shims and pause, PSS, MiB", "pss.pods", "MiB", func(u usage) float64 { return float64(u.shims.pss+u.pause.pss) / mib }, none()),
		row("CPU of limpet, % of one core", "cpu", "%", func(u usage) float64 { return u.rates.cpu }, exactly(1.4)),
		row("CPU of the whole node, %", "cpu.node", "%", func(u usage) float64 { return u.rates.nodeCPU }, none()),
		row("written to the device, KiB/s", "written", "KiB/s", func(u usage) float64 { return u.rates.device / 1024 }, none()),
		row("wake-ups (context switches) per second", "wakeups", "1/s", func(u usage) float64 { return u.rates.switches }, none()),
	})
}
