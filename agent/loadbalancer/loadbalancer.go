// Package loadbalancer is the node's way to the API servers: it listens on
// loopback and passes TCP connections through to a server that is there. All
// components of a node speak to it, so that a lost server is nobody else's
// concern, and TLS stays between them and the server.
//
// A connection is given to a server only when that has answered the client's
// first message; until then another server can be tried, and the client
// notices nothing. A server that fails is asked again until it is back; while
// there is another one, no connection stays with it. An agent with one healthy
// server asks nothing and sends nothing of its own, but for a keep-alive on
// connections that were silent for half a minute.
//
// A server that restarts is away for a few seconds: new connections wait for
// it for up to 8 seconds from the moment it was lost and are closed at once
// after that.
package loadbalancer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// DefaultListen is where the components of a node find the API.
const DefaultListen = "127.0.0.1:6444"

// Options of a Balancer.
type Options struct {
	// Listen is the address that connections are accepted on; default DefaultListen.
	Listen string
	// Servers are the configured servers, "host:port", best first. They stay
	// in the list whatever SetServers says: they may be a name or an address
	// that the cluster does not know of.
	Servers []string
	// File keeps the list of SetServers over restarts; empty: it is not kept.
	File string
	// StandIn connects to an API server inside this process that is used as
	// long as this process has never reached a real one; nil: there is none.
	StandIn func(context.Context) (net.Conn, error)
	// Roots are the authorities of the cluster's servers. A server with a
	// certificate of another authority counts as failed. nil: not verified,
	// clients do that themselves.
	Roots *x509.CertPool
	// MaxConnections bounds the open connections; default 1024. Those above
	// are closed at once.
	MaxConnections int
	Logger         *slog.Logger

	patience time.Duration // shorter in tests
}

// Balancer passes connections to servers. Create it with New.
type Balancer struct {
	opts Options

	mu      sync.Mutex
	pool    pool
	links   map[*link]struct{}
	changed chan struct{} // closed and replaced when something about the servers is new
	reached chan struct{} // closed when a server has been reached
	refused time.Time     // when it was last told that connections are refused

	wake chan struct{} // holds a token when probes may be due earlier than planned
}

// New returns a balancer with the configured servers and those of the file;
// nothing listens before Run. It fails on an address that is none. A file that
// cannot be read is reported in the log only: the configured servers will do.
func New(opts Options) (*Balancer, error) {
	if opts.Listen == "" {
		opts.Listen = DefaultListen
	}
	if opts.MaxConnections == 0 {
		opts.MaxConnections = 1024
	}
	if opts.patience == 0 {
		opts.patience = defaultPatience
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	for _, addr := range opts.Servers {
		if err := checkAddress(addr); err != nil {
			return nil, fmt.Errorf("load balancer: server %q: %w", addr, err)
		}
	}
	opts.Servers = slices.Clone(opts.Servers)
	b := &Balancer{
		opts: opts, links: map[*link]struct{}{},
		changed: make(chan struct{}), reached: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	kept, err := load(opts.File)
	if err != nil {
		opts.Logger.Warn("the list of servers cannot be read; it is fetched anew", "error", err)
	}
	b.pool.set(slices.Concat(opts.Servers, kept), time.Now())
	return b, nil
}

// Name implements component.Component.
func (b *Balancer) Name() string { return "load-balancer" }

// Run accepts connections until ctx is done; then it closes all of them. It is
// ready as soon as it listens.
func (b *Balancer) Run(ctx context.Context, ready func()) error {
	listener, err := net.Listen("tcp", b.opts.Listen)
	if err != nil {
		return fmt.Errorf("listen for the node's components: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		_ = listener.Close() // Accept tells
		b.closeLinks(func(*link) bool { return true })
	})
	defer stop()
	wg.Go(func() { b.probe(ctx) })
	ready()
	for {
		client, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if !pauseAfter(ctx, err) {
				return fmt.Errorf("accept connections of the node's components: %w", err)
			}
			continue
		}
		l := &link{client: client.(*net.TCPConn)}
		if !b.admit(l) {
			_ = client.Close()
			continue
		}
		wg.Go(func() {
			defer b.dismiss(l)
			b.serve(ctx, l)
		})
	}
}

// pauseAfter waits a moment when the process is out of file descriptors, which
// passes; it returns false for errors that do not.
func pauseAfter(ctx context.Context, err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
	}
	return true
}

// SetServers replaces the servers that the cluster has told of, beside the
// configured ones, and keeps the list in the file. An empty list is ignored:
// the last known servers are better than none. At most 16 are taken; invalid
// addresses are left out.
func (b *Balancer) SetServers(addrs []string) {
	list := sanitize(addrs)
	if len(list) == 0 {
		return
	}
	if err := save(b.opts.File, list); err != nil {
		b.opts.Logger.Warn("the list of servers cannot be kept; after a restart only the known ones are tried", "error", err)
	}
	b.mu.Lock()
	before := b.pool.addrs()
	gone := b.pool.set(slices.Concat(b.opts.Servers, list), time.Now())
	after := b.pool.addrs()
	if !slices.Equal(before, after) {
		b.notify()
	}
	b.mu.Unlock()
	if !slices.Equal(before, after) {
		b.opts.Logger.Info("servers of the cluster", "servers", after)
	}
	b.closeLinks(func(l *link) bool { return slices.Contains(gone, l.addr) })
	b.wakeUp()
}

// Servers are the servers, "host:port": the configured ones first.
func (b *Balancer) Servers() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pool.addrs()
}

// Changed returns a channel that is closed when the list or the state of a
// server is another one. Ask for it before looking.
func (b *Balancer) Changed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changed
}

// Reached is closed when this process has reached a server for the first time.
func (b *Balancer) Reached() <-chan struct{} { return b.reached }

// hasReached is for decisions under b.mu, where the channel is closed.
func (b *Balancer) hasReached() bool {
	select {
	case <-b.reached:
		return true
	default:
		return false
	}
}

// notify tells those that wait for a change; b.mu is held.
func (b *Balancer) notify() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *Balancer) wakeUp() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (p *pool) addrs() []string {
	addrs := make([]string, len(p.servers))
	for i, s := range p.servers {
		addrs[i] = s.addr
	}
	return addrs
}
