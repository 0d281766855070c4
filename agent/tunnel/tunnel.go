package tunnel

import (
	"context"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options of a Tunnel.
type Options struct {
	// Servers are the API servers to keep a tunnel to, each as HOST:PORT.
	Servers func() []string
	// Changed returns a channel that is closed when Servers, or the state of one
	// of them, has changed; nil: they never do.
	Changed func() <-chan struct{}
	// ServerCA is the file of the bundle that servers are verified with;
	// ClientCert and ClientKey, which may be one file, are the node's identity.
	// All are read for each connection.
	ServerCA, ClientCert, ClientKey string
	Policy                          Policy
	// PodRanges are the ranges of the node's pods; it is called when the server
	// first asks for a pod.
	PodRanges func(context.Context) ([]netip.Prefix, error)
	Logger    *slog.Logger
	// Backoff is the first pause after a failure, which doubles up to
	// BackoffMax; defaults 100 ms and 15 s. While there is a tunnel to another
	// server it doubles up to eight times that. Each pause is shortened by up to
	// half, at random, so that the nodes do not return all at once.
	Backoff, BackoffMax time.Duration
}

// Tunnel is a component that keeps a tunnel to each server.
type Tunnel struct {
	opts Options

	mu     sync.Mutex
	states map[string]State
	ids    map[string]string // the identities of the servers with a tunnel, by address
	news   chan struct{}     // closed and replaced when another attempt may succeed
}

// State is the state of the tunnel to one server.
type State struct {
	Server string `json:"server"`
	// Connected is also true for a server that is reached at another of its addresses.
	Connected bool `json:"connected"`
	// Since is when Connected became what it is.
	Since time.Time `json:"since"`
	// Error is why the tunnel is not connected.
	Error string `json:"error,omitempty"`
}

// New returns a Tunnel that does nothing before Run.
func New(opts Options) *Tunnel {
	if opts.Backoff == 0 {
		opts.Backoff = 100 * time.Millisecond
	}
	if opts.BackoffMax == 0 {
		opts.BackoffMax = 15 * time.Second
	}
	if opts.Changed == nil {
		opts.Changed = func() <-chan struct{} { return nil }
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	return &Tunnel{opts: opts, states: map[string]State{}, ids: map[string]string{}, news: make(chan struct{})}
}

// Name implements component.Component.
func (t *Tunnel) Name() string { return Name }

// Run keeps the tunnels until ctx is done. It is ready at once: a node works
// without them, and States tells whether they are there.
func (t *Tunnel) Run(ctx context.Context, ready func()) error {
	ready()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kept := map[string]context.CancelFunc{}
	for {
		changed := t.opts.Changed()
		servers := t.opts.Servers()
		for server, stop := range kept {
			if !slices.Contains(servers, server) {
				stop()
				delete(kept, server)
			}
		}
		for _, server := range servers {
			if kept[server] != nil {
				continue
			}
			one, stop := context.WithCancel(ctx)
			kept[server] = stop
			wg.Go(func() {
				t.keep(one, server)
				stop()
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			t.mu.Lock()
			t.wake()
			t.mu.Unlock()
		}
	}
}

// States returns the states of all tunnels, by server.
func (t *Tunnel) States() []State {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]State, 0, len(t.states))
	for _, s := range t.states {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b State) int { return strings.Compare(a.Server, b.Server) })
	return list
}

// set records a state; Since is when it became connected or ceased to be.
func (t *Tunnel) set(server string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := State{Server: server, Connected: err == nil, Since: time.Now()}
	if err != nil {
		s.Error = err.Error()
	}
	if old, ok := t.states[server]; ok && old.Connected == s.Connected {
		s.Since = old.Since
	}
	t.states[server] = s
}

// began records which server the tunnel leads to.
func (t *Tunnel) began(server, id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ids[server] = id
}

func (t *Tunnel) end(server string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.ids, server)
	t.wake()
}

// wake lets those that pause try again; t.mu is held.
func (t *Tunnel) wake() {
	close(t.news)
	t.news = make(chan struct{})
}

// forget drops what is known of a server that is no longer in the list.
func (t *Tunnel) forget(server string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.states, server)
}

// connected are the identities of the servers that a tunnel leads to.
func (t *Tunnel) connected() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []string
	for _, id := range t.ids {
		if id != "" {
			list = append(list, id)
		}
	}
	slices.Sort(list)
	return list
}

// awaitNews returns a channel that is closed when a tunnel ends or something
// about the servers changes.
func (t *Tunnel) awaitNews() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.news
}

// serve answers the server on conn until one of the two ends it.
func (t *Tunnel) serve(ctx context.Context, conn net.Conn) {
	only := newOneConn(conn)
	dialer := &net.Dialer{}
	protocols := &http.Protocols{}
	protocols.SetUnencryptedHTTP2(true) // conn is encrypted already
	server := &http.Server{
		Handler: &streams{
			policy: t.opts.Policy, pods: newPodSource(t.opts.PodRanges).pods,
			dial: dialer.DialContext, log: t.opts.Logger, timeout: DialTimeout,
		},
		Protocols: protocols,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          MaxStreams,
			MaxReadFrameSize:              CopyBuffer,
			MaxReceiveBufferPerStream:     StreamBuffer,
			MaxReceiveBufferPerConnection: ConnectionBuffer,
			SendPingTimeout:               PingAfter, PingTimeout: PingTimeout, WriteByteTimeout: WriteTimeout,
		},
		ReadHeaderTimeout: connectTimeout, // of the server's first frames
		MaxHeaderBytes:    1 << 13,
		ErrorLog:          log.New(debugLog{t.opts.Logger}, "", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				_ = only.Close()
			}
		},
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	_ = server.Serve(only) // its error is that only was closed
	_ = server.Close()
	_ = conn.Close()
}

// debugLog takes the library's messages, which are about single connections.
type debugLog struct{ log *slog.Logger }

func (d debugLog) Write(p []byte) (int, error) {
	d.log.Debug(strings.TrimSpace(string(p)))
	return len(p), nil
}

// oneConn is a listener with one connection to accept.
type oneConn struct {
	conn   chan net.Conn
	addr   net.Addr
	once   sync.Once
	closed chan struct{}
}

func newOneConn(c net.Conn) *oneConn {
	l := &oneConn{conn: make(chan net.Conn, 1), addr: c.LocalAddr(), closed: make(chan struct{})}
	l.conn <- c
	return l
}

func (l *oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conn:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *oneConn) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *oneConn) Addr() net.Addr { return l.addr }
