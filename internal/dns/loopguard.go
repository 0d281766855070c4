package dns

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
)

const (
	// maxInFlight is how many times the machine itself may ask one question
	// while the first is still unanswered. A loop through a resolver of the machine
	// passes it within milliseconds; programs do not.
	maxInFlight = 64
	// loopLogInterval is the least time between two complaints about loops.
	loopLogInterval = time.Hour
)

// loopGuard sits before forward and cuts loops through a resolver on this
// machine that forwards back to us. Upstream's loop plugin looks once at start
// and exits the process; this one looks always and fails the query.
type loopGuard struct {
	Next  plugin.Handler
	local map[netip.Addr]bool

	mu       sync.Mutex
	inFlight map[dns.Question]int
	logged   time.Time
}

func setupLoopGuard(c *caddy.Controller) error {
	g := &loopGuard{local: make(map[netip.Addr]bool), inFlight: make(map[dns.Question]int)}
	for c.Next() {
		for _, arg := range c.RemainingArgs() {
			a, err := netip.ParseAddr(arg)
			if err != nil {
				return plugin.Error(directiveLoopGuard, err)
			}
			g.local[a] = true
		}
	}
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		g.Next = next
		return g
	})
	return nil
}

// Name implements plugin.Handler.
func (g *loopGuard) Name() string { return directiveLoopGuard }

// ServeDNS implements plugin.Handler.
func (g *loopGuard) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	if !g.fromHere(state.IP()) {
		return plugin.NextOrFailure(g.Name(), g.Next, ctx, w, r)
	}
	q := dns.Question{Name: state.Name(), Qtype: state.QType(), Qclass: state.QClass()}
	ok, complain := g.enter(q, time.Now())
	if complain {
		clog.Errorf("a name server of this machine forwards queries back to the cluster DNS (seen for %s from %s): "+
			"remove the cluster DNS address or this node from its upstream servers", q.Name, state.IP())
	}
	if !ok {
		return dns.RcodeServerFailure, nil
	}
	defer g.leave(q)
	return plugin.NextOrFailure(g.Name(), g.Next, ctx, w, r)
}

func (g *loopGuard) fromHere(ip string) bool {
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return false
	}
	a = a.Unmap().WithZone("")
	return a.IsLoopback() || g.local[a]
}

// enter counts the question; ok is false when it is asked too often at once,
// complain when that has not been logged lately.
func (g *loopGuard) enter(q dns.Question, now time.Time) (ok, complain bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inFlight[q] >= maxInFlight {
		complain = now.Sub(g.logged) >= loopLogInterval
		if complain {
			g.logged = now
		}
		return false, complain
	}
	g.inFlight[q]++
	return true, false
}

func (g *loopGuard) leave(q dns.Question) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inFlight[q]--; g.inFlight[q] <= 0 {
		delete(g.inFlight, q)
	}
}
