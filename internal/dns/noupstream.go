package dns

import (
	"context"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
)

// noUpstream stands in for a forward that has no server to forward to. It
// answers SERVFAIL at once: NXDOMAIN would claim that the name does not exist and
// be cached by clients, silence would make every lookup take ten seconds.
type noUpstream struct {
	Next  plugin.Handler
	zones plugin.Zones
}

func setupNoUpstream(c *caddy.Controller) error {
	n := &noUpstream{}
	for c.Next() {
		for _, zone := range c.RemainingArgs() {
			n.zones = append(n.zones, plugin.Host(zone).NormalizeExact()...)
		}
	}
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		n.Next = next
		return n
	})
	return nil
}

// Name implements plugin.Handler.
func (n *noUpstream) Name() string { return directiveNoUpstream }

// ServeDNS implements plugin.Handler.
func (n *noUpstream) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	if n.zones.Matches(state.Name()) == "" {
		return plugin.NextOrFailure(n.Name(), n.Next, ctx, w, r)
	}
	return dns.RcodeServerFailure, nil
}
