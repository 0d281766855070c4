package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// storeBench compares limpet's datastore with kine and etcd: each is a process
// of its own behind a unix socket, all with their files on the same disk, and
// this program is the client of all of them.
//
// Every measurement is short and comes round several times, each time with one
// server after the other, so that a machine that gets slower or busier does so
// for all of them. What is compared is the ratio within a round; of the rounds
// the median counts.
type storeBench struct {
	dir, programs  string
	quick          bool
	rounds         int
	slice          time.Duration
	objects        int
	updates        int
	settle, idle   time.Duration
	profile        string
	servers, kinds string // for whoever works on one of them

	progress func(format string, args ...any)
}

func (b *storeBench) flags(fs *flag.FlagSet) {
	fs.StringVar(&b.dir, "dir", filepath.Join(".run", "bench-datastore"), "`directory` of the data, on the disk to measure; it is removed at the end")
	fs.StringVar(&b.programs, "programs", filepath.Join(".cache", "bin"), "`directory` of the servers' programs")
	fs.BoolVar(&b.quick, "quick", false, "all of it in less than two minutes: the figures are rougher, those of bytes most, as checkpoints are seldom")
	fs.IntVar(&b.rounds, "rounds", 5, "times that each measurement is made")
	fs.DurationVar(&b.slice, "slice", 800*time.Millisecond, "length of a measurement of one server, in each round")
	fs.IntVar(&b.objects, "objects", 10000, "keys that are listed")
	fs.IntVar(&b.updates, "updates", 6000, "updates over which the bytes written are measured")
	fs.DurationVar(&b.settle, "settle", 10*time.Second, "rest before the servers are measured idle")
	fs.DurationVar(&b.idle, "idle", time.Minute, "length of that measurement")
	fs.StringVar(&b.profile, "pprof", "", "`address` at which limpet's datastore serves profiles meanwhile")
	fs.StringVar(&b.servers, "servers", "", "measure `these` only: "+ours+",kine-cgo,…")
	fs.StringVar(&b.kinds, "rows", "", "measure `these` only: create,list,…,bytes,idle")
}

// shorten makes of the default a run of less than two minutes.
func (b *storeBench) shorten() {
	b.rounds, b.slice, b.updates = 2, 200*time.Millisecond, 1500
	b.settle, b.idle = 6*time.Second, 5*time.Second
}

func benchDatastore(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	b := &storeBench{progress: func(format string, args ...any) { progress(stderr, format, args...) }}
	fs := flag.NewFlagSet("bench datastore", flag.ContinueOnError)
	fs.SetOutput(stderr)
	b.flags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if b.quick {
		b.shorten()
	}
	if b.rounds < 1 || b.updates < b.rounds || b.objects < 2*pageSize || b.slice <= 0 || b.idle <= 0 {
		return fmt.Errorf("-rounds, -slice and -idle must be above zero, -updates at least -rounds, -objects at least %d", 2*pageSize)
	}
	if err := os.RemoveAll(b.dir); err != nil { // what a crash may have left
		return err
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	r := &report{out: stdout}
	return errors.Join(b.run(ctx, r), os.RemoveAll(b.dir))
}

func (b *storeBench) run(ctx context.Context, r *report) (err error) {
	r.quiet()
	disk, err := probeDisk(b.dir)
	if err != nil {
		return err
	}
	servers, stop, err := b.start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := b.fill(ctx, servers); err != nil {
		return err
	}
	results, err := b.measure(ctx, servers)
	if err != nil {
		return err
	}
	costs, err := b.bytes(ctx, servers)
	if err != nil {
		return err
	}
	idles, err := b.observeIdle(ctx, servers)
	if err != nil {
		return err
	}
	r.say("Datastore: limpet, kine v0.17.2 and etcd v3.7.3; %s", machine())
	r.say("disk: %s; load average now: %.1f", disk, load1())
	r.say("each figure is the median of %d rounds of %s, each server in turn; keys to list: %d\n", b.rounds, b.slice, b.objects)
	printStores(r, servers, results, costs, idles)
	return nil
}

// wants reports whether a row is to be measured.
func (b *storeBench) wants(kind string) bool {
	return b.kinds == "" || slices.Contains(strings.Split(b.kinds, ","), kind)
}

// fill creates what is listed, read and updated later.
func (b *storeBench) fill(ctx context.Context, servers []*storeServer) error {
	for _, s := range servers {
		b.progress("%s: %d keys", s.title, b.objects+updatedKeys)
		listed := func(ctx context.Context, client, i int) error {
			_, err := s.create(ctx, client, listedKey(i), content(i, objectSize))
			return err
		}
		updated := func(ctx context.Context, client, i int) (err error) {
			s.revisions[i], err = s.create(ctx, client, updatedKey(i), content(i, objectSize))
			return err
		}
		_, err1 := repeat(ctx, manyClients, b.objects, listed)
		_, err2 := repeat(ctx, manyClients, updatedKeys, updated)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("%s: fill: %w", s.title, err)
		}
	}
	return nil
}

// maxOperations bounds a slice, whatever a clock does.
const maxOperations = 100_000

// measure goes through all rows.
func (b *storeBench) measure(ctx context.Context, servers []*storeServer) ([]storeResult, error) {
	var results []storeResult
	for _, row := range storeRows(b.objects) {
		if !b.wants(row.kind) {
			continue
		}
		result := storeResult{row: row, rates: make([][]float64, len(servers)), each: make([][]time.Duration, len(servers))}
		b.progress("%s, clients: %d", row.title, row.clients)
		for range b.rounds {
			for i, s := range servers {
				if err := b.once(ctx, &result, i, s); err != nil {
					return nil, fmt.Errorf("%s: %s: %w", s.title, row.title, err)
				}
			}
		}
		results = append(results, result)
	}
	return results, nil
}

// once makes one measurement of one server.
func (b *storeBench) once(ctx context.Context, result *storeResult, i int, s *storeServer) error {
	row := result.row
	if row.kind == fanOutKind {
		if err := s.openWatchers(ctx); err != nil {
			return err
		}
	}
	l, err := repeatFor(ctx, row.clients, maxOperations, b.slice, row.on(s))
	if err != nil {
		return err
	}
	each := l.each
	if row.kind == fanOutKind { // what counts is when the watchers know
		each = s.watchers.takeLatencies()
	}
	result.rates[i] = append(result.rates[i], l.perSecond())
	result.each[i] = append(result.each[i], each...)
	return nil
}
