// Package datastore is where the cluster's state lives: an etcd-compatible store
// on one SQLite file, made for flash and for power cuts.
//
// All keys, and the recent history, are in memory (package engine); a log in
// SQLite makes them durable (package sqlog). Requests that write are taken in
// the order they come, by one goroutine: what has queued up while a commit went
// to the disk is the next commit. Nothing is answered, and no watcher hears of
// it, before its commit is on the disk; then everybody does at once, without a
// poll or a read. Requests that only read never wait for a commit.
//
// What is served, and to whom, is package etcdapi's business.
package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/limpetio/limpet/datastore/engine"
	"github.com/limpetio/limpet/datastore/sqlog"
)

// Options of a store. The zero value of each but Path is its default.
type Options struct {
	// Path is the database file; its directory exists.
	Path   string
	Logger *slog.Logger
	// CacheBytes is how much memory values may take; the default is 32 MiB.
	// Beyond that the values that are read least are read from the file.
	CacheBytes int64
	// CacheValue is the size of a value, in bytes, beyond which it is always
	// read from the file; the default is 64 KiB.
	CacheValue int
	// HistoryChanges and HistoryBytes bound the history in memory; the defaults
	// are 8192 changes and 8 MiB. A watcher that wants older changes, down to
	// the last compaction, gets them from the file.
	HistoryChanges int
	HistoryBytes   int64
	// Log are the settings of the log; Path and Logger are taken from above.
	Log sqlog.Options
}

func (o Options) withDefaults() Options {
	setDefault(&o.CacheBytes, 32<<20)
	setDefault(&o.CacheValue, 64<<10)
	setDefault(&o.HistoryChanges, 8192)
	setDefault(&o.HistoryBytes, 8<<20)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Log.Path, o.Log.Logger = o.Path, o.Logger
	return o
}

func setDefault[T int | int64](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// Store is an open datastore. Its methods may be called from any goroutine.
type Store struct {
	path    string
	log     *sqlog.Log
	logger  *slog.Logger
	cache   *engine.Cache
	opened  sqlog.State
	metrics *Metrics

	// state is what has been committed. It is replaced under hub.mu, after the
	// changes that led to it have been handed to the watchers.
	state  atomic.Pointer[engine.State]
	hub    *hub
	pages  pages
	lessor *lessor
	queue  queue
	// failing is the error of the last commit; nil if it succeeded.
	failing atomic.Pointer[error]

	closing context.Context
	close   context.CancelFunc
	running sync.WaitGroup
}

// Open opens the database, or creates it, and starts the writer. Errors are
// those of sqlog.Open.
func Open(ctx context.Context, opts Options) (*Store, error) {
	opts = opts.withDefaults()
	log, opened, err := sqlog.Open(ctx, opts.Log)
	if err != nil {
		return nil, err
	}
	s := &Store{
		path: opts.Path, log: log, logger: opts.Logger, opened: opened, metrics: newMetrics(),
		cache: engine.NewCache(opts.CacheBytes, opts.CacheValue),
		queue: queue{wake: make(chan struct{}, 1)},
	}
	s.hub = newHub(s, opts)
	if err := s.load(ctx, opts); err != nil {
		return nil, errors.Join(err, log.Close(ctx))
	}
	s.closing, s.close = context.WithCancel(context.Background())
	s.lessor = newLessor(s)
	s.metrics.store = s
	s.running.Go(s.writeLoop)
	s.running.Go(s.lessor.run)
	return s, nil
}

// load reads the log into memory.
func (s *Store) load(ctx context.Context, opts Options) error {
	start := time.Now()
	state := engine.New()
	state.Compacted = s.opened.Compacted
	// What does not fit into memory anyway is not read.
	inline := opts.CacheValue
	if s.log.Stats().FileBytes > opts.CacheBytes {
		inline = 0
	}
	err := s.log.Load(ctx, inline, func(r sqlog.Record) error {
		v := s.version(r)
		prev := state.Load(v)
		s.cache.Add(v)
		s.hub.remember(engine.Change{Cur: v, Prev: prev})
		return nil
	})
	if err != nil {
		return fmt.Errorf("load datastore: %w", err)
	}
	leases, err := s.log.Leases(ctx)
	if err != nil {
		return fmt.Errorf("load leases: %w", err)
	}
	for id, ttl := range leases {
		state.LoadLease(engine.Lease{ID: id, TTL: ttl})
	}
	state.Revision = max(state.Revision, s.opened.Revision)
	s.hub.start(state)
	s.logger.Info("datastore is loaded", "keys", state.Len(), "revision", state.Revision,
		"clean", s.opened.Clean, "seconds", time.Since(start).Round(time.Millisecond).Seconds())
	return nil
}

// version is a record of the log in memory.
func (s *Store) version(r sqlog.Record) *engine.Version {
	v := &engine.Version{
		Key: r.Key, ID: r.ID, Prev: r.Prev,
		CreateRevision: r.CreateRevision, Version: r.Version, Lease: r.Lease,
	}
	if r.Value != nil {
		v.SetValue(r.Value)
	}
	v.Size = r.Size
	return v
}

// Close stops the writer, after what is queued, and closes the database as one
// that was closed.
func (s *Store) Close(ctx context.Context) error {
	s.queue.shut()
	s.close()
	s.running.Wait()
	return s.log.Close(ctx)
}

// Opened tells what was found when the database was opened.
func (s *Store) Opened() sqlog.State { return s.opened }

// State is what has been committed.
func (s *Store) State() *engine.State { return s.state.Load() }

// Log is the log under the store, for what works on files: backups.
func (s *Store) Log() *sqlog.Log { return s.log }

// Path is that of the database file.
func (s *Store) Path() string { return s.path }

// Logger is the store's logger.
func (s *Store) Logger() *slog.Logger { return s.logger }

// Range answers from what has been committed; it waits for nobody.
func (s *Store) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	reader := reader{ctx: ctx, Store: s}
	for {
		state := s.State()
		resp, err := s.pages.answer(state, r, reader)
		// A version that was current a moment ago may have been compacted away.
		if errors.Is(err, errSwept) && r.Revision <= 0 && s.State() != state {
			continue
		}
		return resp, StatusOf(err)
	}
}
