package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// storeCost is what something cost each server, in bytes.
type storeCost struct {
	name, title string
	each        []float64
}

// goal reports whether the product's goal is about this cost.
func (c storeCost) goal() bool { return strings.HasPrefix(c.name, updateCost) }

const (
	// updateCost is what an update writes to the device, with the checkpoints.
	updateCost = "bytes"
	// callsCost is what it hands to write(2) and its kin, the answers of some 100
	// bytes to clients included: less than a block, and still a block is written.
	callsCost = "calls"
	// compactionCost is what compaction adds to an update, later.
	compactionCost = "compactbytes"
	// commitPause is longer than etcd keeps what is in its log from its database.
	commitPause = time.Second
	// quietPause is how long nothing may be written until a compaction counts as done.
	quietPause = time.Second
	quietLimit = 30 * time.Second
)

// bytes measures what an update costs the device, checkpoints included, and
// later its compaction. Every update is compacted some day.
func (b *storeBench) bytes(ctx context.Context, servers []*storeServer) ([]storeCost, error) {
	if !b.wants("bytes") {
		return nil, nil
	}
	b.progress("compaction of what has been measured so far")
	if _, err := b.compactAll(ctx, servers); err != nil {
		return nil, err
	}
	var device, calls []storeCost
	updates := 0
	for _, size := range []int{smallSize, objectSize} {
		for _, clients := range []int{1, manyClients} {
			b.progress("bytes of %d updates of %d B, clients: %d", b.updates, size, clients)
			each, err := b.writtenDuring(servers, func() error { return b.updateInTurn(ctx, servers, clients, size) })
			if err != nil {
				return nil, err
			}
			updates += b.updates
			name, title := fmt.Sprintf("%d.c%d", size, clients), fmt.Sprintf("update of %d B, clients: %d", size, clients)
			device = append(device, storeCost{updateCost + name, title, perOperation(each, b.updates, written.toDevice)})
			calls = append(calls, storeCost{callsCost + name, title + ", as handed to the kernel", perOperation(each, b.updates, written.byCalls)})
		}
	}
	b.progress("bytes of their compaction")
	each, err := b.compactAll(ctx, servers)
	if err != nil {
		return nil, err
	}
	compaction := storeCost{compactionCost, "compaction, later, per update", perOperation(each, updates, written.toDevice)}
	return slices.Concat(device, []storeCost{compaction}, calls), nil
}

// updateInTurn makes all updates in as many rounds as there are, one server after
// the other.
func (b *storeBench) updateInTurn(ctx context.Context, servers []*storeServer, clients, size int) error {
	for round := range b.rounds {
		n := b.updates*(round+1)/b.rounds - b.updates*round/b.rounds
		for _, s := range servers {
			_, err := repeat(ctx, clients, n, func(ctx context.Context, client, _ int) error { return s.update(ctx, client, clients, size) })
			if err != nil {
				return fmt.Errorf("%s: update: %w", s.title, err)
			}
		}
	}
	return nil
}

// compactAll compacts every server and returns what it wrote. A peer that cannot
// compact, as kine while its database is locked, is left as it is, and said so.
func (b *storeBench) compactAll(ctx context.Context, servers []*storeServer) ([]written, error) {
	return b.writtenDuring(servers, func() error {
		for _, s := range servers {
			if err := s.compact(ctx); err != nil {
				if s.key == ours || ctx.Err() != nil {
					return fmt.Errorf("%s: compact: %w", s.title, err)
				}
				b.progress("%s did not compact within %s: %v", s.title, quietLimit, err)
			}
			if err := s.untilQuiet(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// untilQuiet waits until a server writes nothing any more. They compact in the
// background and tell nobody when they have finished.
func (s *storeServer) untilQuiet(ctx context.Context) error {
	limit := time.Now().Add(quietLimit)
	for last := uint64(0); time.Now().Before(limit); {
		now, err := readWritten(s.pid)
		if err != nil || now.device == last {
			return err
		}
		last = now.device
		if !sleep(ctx, quietPause) {
			return ctx.Err()
		}
	}
	return fmt.Errorf("%s: it still writes %s after a compaction", s.title, quietLimit)
}

// writtenDuring measures what all servers write while something is done, with
// what is written a moment later because of it.
func (b *storeBench) writtenDuring(servers []*storeServer, do func() error) ([]written, error) {
	before, err := writtenBy(servers)
	if err != nil {
		return nil, err
	}
	if err := do(); err != nil {
		return nil, err
	}
	after, err := writtenBy(servers)
	if err != nil {
		return nil, err
	}
	for i := range after {
		after[i].device -= before[i].device
		after[i].calls -= before[i].calls
	}
	return after, nil
}

func writtenBy(servers []*storeServer) ([]written, error) {
	time.Sleep(commitPause)
	unix.Sync()
	each := make([]written, len(servers))
	for i, s := range servers {
		var err error
		if each[i], err = readWritten(s.pid); err != nil {
			return nil, fmt.Errorf("%s: %w", s.title, err)
		}
	}
	return each, nil
}

func (w written) toDevice() float64 { return float64(w.device) }
func (w written) byCalls() float64  { return float64(w.calls) }

func perOperation(each []written, operations int, what func(written) float64) []float64 {
	list := make([]float64, len(each))
	for i, w := range each {
		list[i] = what(w) / float64(operations)
	}
	return list
}

// storeIdle is what a server costs while nobody does anything but watch.
type storeIdle struct {
	over            time.Duration
	wakeUps, device uint64
	cpu             time.Duration
	memory          memory
}

// runtimes is how many of the wake-ups are those of Go's runtime, whatever the
// program: its monitor looks once a minute whether it is time to collect garbage,
// and that is two of them. (It is time when the last collection was two minutes
// ago: not while this is measured, right after load.)
func (i storeIdle) runtimes() uint64 { return 2 * (1 + uint64(i.over/time.Minute)) }

// observeIdle measures all servers at the same time.
func (b *storeBench) observeIdle(ctx context.Context, servers []*storeServer) ([]storeIdle, error) {
	if !b.wants("idle") {
		return nil, nil
	}
	for _, s := range servers {
		if err := s.openWatchers(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", s.title, err)
		}
	}
	b.progress("settling for %s", b.settle)
	if !sleep(ctx, b.settle) {
		return nil, ctx.Err()
	}
	b.progress("idle for %s, with %d watches", b.idle, watcherCount)
	before, err := countersOf(servers)
	if err != nil {
		return nil, err
	}
	if !sleep(ctx, b.idle) {
		return nil, ctx.Err()
	}
	after, err := countersOf(servers)
	if err != nil {
		return nil, err
	}
	idles := make([]storeIdle, len(servers))
	for i, s := range servers {
		idles[i] = storeIdle{
			over:    after[i].at.Sub(before[i].at),
			wakeUps: switchesBetween(before[i].switches, after[i].switches),
			device:  after[i].written.device - before[i].written.device,
			cpu:     after[i].cpu - before[i].cpu,
		}
		if idles[i].memory, err = readMemory(s.pid); err != nil {
			return nil, err
		}
	}
	return idles, nil
}

func countersOf(servers []*storeServer) ([]counters, error) {
	list := make([]counters, len(servers))
	for i, s := range servers {
		var err error
		if list[i], err = processCounters(s.pid); err != nil {
			return nil, fmt.Errorf("%s: %w", s.title, err)
		}
	}
	return list, nil
}
