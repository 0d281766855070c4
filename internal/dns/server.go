package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

const (
	// configWait is how long the first start waits to learn the ConfigMaps, so
	// that a restarted node does not answer with the built-in Corefile first.
	configWait = 2 * time.Second
	// Retries of what may heal by itself: an address that is not there yet, a
	// host name in a forward, the API server.
	retryMin, retryMax = 250 * time.Millisecond, 5 * time.Minute
	// retryListen bounds the delay while an address or port is not to be had.
	retryListen = 5 * time.Second
	// eventTimeout bounds a write to the API server that nobody waits for.
	eventTimeout = 2 * time.Second
)

// Status is what `limpet status` shows of the server.
type Status struct {
	Listen    []netip.AddrPort // empty: not listening
	Upstreams []string         // the node's name servers that are asked
	Since     time.Time        // when the running configuration was applied
	Notes     []string         // parts of the Corefile that have no effect here
	// Error says why the newest configuration, or the annotation of the Node, is
	// not in effect; empty when all is well. The configuration of Since still runs.
	Error string
}

// Server is the DNS server; it is a component.Component.
type Server struct {
	opts   Options
	log    *slog.Logger
	source *source // nil without RestConfig
	resolv resolvFiles
	wake   chan struct{} // configuration inputs changed
	wakeEP chan struct{} // inputs of the Node's annotation changed

	engine   engine
	running  string // text of the plan that runs
	refused  string // why the newest plan does not run; empty if it does
	goodMain string // digest of the ConfigMap coredns when a plan was last accepted

	mu         sync.Mutex
	listen     []netip.Addr
	status     Status
	kubernetes bool     // the running configuration serves names of the cluster
	endpoint   Endpoint // where the running configuration listens
	answers    bool     // it has answered a name of the cluster
	handedOver bool     // the process stops, another node's server is used
	epError    string
}

// New makes a server that [Server.Run] runs.
func New(opts Options) (*Server, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	s := &Server{
		opts:   opts,
		log:    opts.Logger,
		resolv: resolvFiles{conf: opts.ResolvConf, resolved: resolvedConf},
		wake:   make(chan struct{}, 1),
		wakeEP: make(chan struct{}, 1),
		engine: engine{log: opts.Logger, runDir: opts.RunDir},
		listen: cleanAddrs(opts.ListenAddrs),
	}
	return s, nil
}

// Name implements component.Component.
func (s *Server) Name() string { return "dns" }

// SetListenAddrs tells the server the node's addresses when they change.
func (s *Server) SetListenAddrs(addrs []netip.Addr) {
	s.mu.Lock()
	s.listen = cleanAddrs(addrs)
	s.mu.Unlock()
	poke(s.wake)
}

// Status tells how the server is doing.
func (s *Server) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	if st.Error == "" {
		st.Error = s.epError
	}
	return st
}

// Run serves until ctx is done. It calls ready when names of the cluster are answered.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if err := s.engine.prepare(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()

	wg.Go(func() {
		if err := s.resolv.watch(ctx, s.log, func() { poke(s.wake) }); err != nil {
			s.log.Warn("Changes of the node's name servers will not be noticed", "err", err)
		}
	})
	if s.opts.RestConfig != nil {
		src, err := newSource(s.opts, func() { poke(s.wake) }, func() { poke(s.wakeEP) })
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.source, s.answers = src, false
		s.mu.Unlock()
		wg.Go(func() { s.source.run(ctx) })
		s.source.waitSynced(ctx, configWait)
	}
	if s.opts.NodeConfig != nil {
		wg.Go(func() { s.publishLoop(ctx) })
	}
	s.configLoop(ctx, func() {
		wg.Go(func() { s.awaitReady(ctx, ready) })
	})
	if err := s.engine.stop(); err != nil {
		return fmt.Errorf("stop DNS server: %w", err)
	}
	return nil
}

// configLoop keeps the running configuration what the inputs say, until ctx is
// done. started is called once, when the server listens.
func (s *Server) configLoop(ctx context.Context, started func()) {
	backoff := retryMin
	for {
		var retry <-chan time.Time
		if err := s.reconcile(ctx); err != nil {
			var busy *listenError
			if errors.As(err, &busy) {
				backoff = min(backoff, retryListen)
			}
			retry = time.After(backoff)
			backoff = min(2*backoff, retryMax)
		} else {
			backoff = retryMin
		}
		if started != nil && s.engine.running() {
			started()
			started = nil
		}
		select {
		case <-ctx.Done():
			return
		case <-retry:
		case <-s.wake:
			select {
			case <-ctx.Done():
				return
			case <-time.After(settle):
			}
			drain(s.wake)
		}
	}
}

// awaitReady calls ready when the server answers as a pod expects.
func (s *Server) awaitReady(ctx context.Context, ready func()) {
	ok := waitAnswering(ctx, func(ctx context.Context) error {
		s.mu.Lock()
		at, kubernetes := s.status.Listen, s.kubernetes
		s.mu.Unlock()
		if len(at) == 0 {
			return errors.New("not listening")
		}
		return selfCheck(ctx, at[0], s.opts.ClusterDomain, kubernetes)
	}, func(err error) { s.log.Debug("DNS server is not ready", "err", err) })
	if ok {
		s.mu.Lock()
		s.answers = true
		s.mu.Unlock()
		poke(s.wakeEP)
		ready()
	}
}

// poke wakes the reader of c; several pokes make one wake-up.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func drain(c chan struct{}) {
	select {
	case <-c:
	default:
	}
}
