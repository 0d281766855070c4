package loadbalancer

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// probeTimeout bounds a question to a server.
const probeTimeout = 4 * time.Second

// probe asks the servers that are due until ctx is done.
func (b *Balancer) probe(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	var mu sync.Mutex
	asking := map[string]bool{}
	busy := func(addr string) bool {
		mu.Lock()
		defer mu.Unlock()
		return asking[addr]
	}
	for {
		b.mu.Lock()
		addrs, wait := b.pool.due(time.Now(), busy)
		b.mu.Unlock()
		for _, addr := range addrs {
			mu.Lock()
			asking[addr] = true
			mu.Unlock()
			wg.Go(func() {
				state, reason := b.ask(ctx, addr)
				mu.Lock()
				delete(asking, addr)
				mu.Unlock()
				if ctx.Err() == nil {
					b.take(addr, state, reason)
				}
			})
		}
		var timer <-chan time.Time
		if wait >= 0 {
			timer = time.After(wait)
		}
		select {
		case <-timer:
		case <-b.wake:
		case <-ctx.Done():
			return
		}
	}
}

// ask finds out how a server is: the same TLS handshake as that of the node's
// components, and its own word.
func (b *Balancer) ask(ctx context.Context, addr string) (State, string) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	// The components speak to 127.0.0.1: that is the name they verify.
	//nolint:gosec // without roots the certificate is the clients' concern, and nothing secret is sent here
	conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: b.opts.Roots, ServerName: "127.0.0.1", InsecureSkipVerify: b.opts.Roots == nil}
	conn, err := dial(ctx, addr)
	if err != nil {
		return Failed, err.Error()
	}
	secure := tls.Client(conn, conf)
	defer secure.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := secure.HandshakeContext(ctx); err != nil {
		return Failed, fmt.Sprintf("TLS handshake: %v", err)
	}
	status, err := readyz(ctx, secure)
	switch {
	case err != nil:
		return Failed, fmt.Sprintf("GET /readyz: %v", err)
	case status == http.StatusOK:
		return Healthy, ""
	default:
		return Unready, fmt.Sprintf("GET /readyz: %d %s", status, http.StatusText(status))
	}
}

// readyz asks on an open connection, which is not used any more after that.
func readyz(ctx context.Context, conn io.ReadWriter) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1/readyz", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("User-Agent", "limpet-load-balancer")
	if err := req.Write(conn); err != nil {
		return 0, err
	}
	const limit = 64 << 10 // of what a stranger may send
	resp, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, limit)), req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}

// take hands what was learnt of a server to the pool and draws the conclusions.
func (b *Balancer) take(addr string, state State, reason string) {
	now := time.Now()
	b.mu.Lock()
	before, down := b.pool.active, !b.pool.downSince.IsZero()
	changed := b.pool.report(addr, state, reason, now)
	active, abandoned := b.pool.active, b.pool.abandoned()
	lost := !down && !b.pool.downSince.IsZero()
	first := !b.hasReached() && b.pool.reached(now)
	if first {
		close(b.reached)
	}
	if changed || first {
		b.notify()
	}
	b.mu.Unlock()

	switch {
	case first:
		b.opts.Logger.Info("reached the cluster", "server", addr)
	case lost:
		b.opts.Logger.Warn("no server can be reached; what runs on this node goes on", "server", addr, "reason", reason)
	case changed && state == Healthy && down:
		b.opts.Logger.Info("a server can be reached again", "server", addr)
	case changed && state == Failed:
		b.opts.Logger.Warn("a server cannot be reached", "server", addr, "reason", reason, "using", active)
	case active != before && active != "" && before != "":
		b.opts.Logger.Info("using another server", "server", active)
	}
	b.closeLinks(func(l *link) bool {
		return slices.Contains(abandoned, l.addr) || first && l.addr == standInAddr
	})
	b.wakeUp()
}

// suspect has a server asked at once.
func (b *Balancer) suspect(addr string) {
	b.mu.Lock()
	b.pool.suspected(addr, time.Now())
	b.mu.Unlock()
	b.wakeUp()
}
