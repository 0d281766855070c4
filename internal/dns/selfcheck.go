package dns

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// selfCheck asks the server for the API server's Service, as a pod would.
// Without the kubernetes plugin any answer will do.
func selfCheck(ctx context.Context, at netip.AddrPort, domain string, kubernetes bool) error {
	name := dns.Fqdn("kubernetes.default.svc." + domain)
	client := dns.Client{Net: "udp", Timeout: time.Second}
	var last *dns.Msg
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		q := new(dns.Msg).SetQuestion(name, qtype)
		answer, _, err := client.ExchangeContext(ctx, q, at.String())
		if err != nil {
			return fmt.Errorf("ask %s for %s: %w", at, name, err)
		}
		if !kubernetes || answer.Rcode == dns.RcodeSuccess && len(answer.Answer) > 0 {
			return nil
		}
		last = answer
	}
	return fmt.Errorf("%s answers %s for %s: the API server is not reached yet", at, dns.RcodeToString[last.Rcode], name)
}

// waitAnswering asks until the server answers or ctx is done; report gets each
// failure. CoreDNS has no event for "informers have synced", hence the asking; it ends with the start.
func waitAnswering(ctx context.Context, check func(context.Context) error, report func(error)) bool {
	delay := 20 * time.Millisecond
	for {
		err := check(ctx)
		if err == nil {
			return true
		}
		report(err)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(delay):
		}
		delay = min(delay*3/2, time.Second)
	}
}

// serveWait bounds awaitServing; serving begins within milliseconds.
const serveWait = 2 * time.Second

// awaitServing returns when every listener answers something. CoreDNS's Stop
// works once, and only on listeners whose goroutine has begun to serve
// (core/dnsserver, Server.Stop): a server stopped right after its start would
// serve for ever, and whoever waits for its end with it.
func awaitServing(listen []netip.AddrPort) {
	ctx, cancel := context.WithTimeout(context.Background(), serveWait)
	defer cancel()
	// Without a question it is refused before any plugin sees it, so that it
	// is never forwarded, whatever the Corefile says.
	q := &dns.Msg{MsgHdr: dns.MsgHdr{Id: dns.Id()}}
	for _, at := range listen {
		for _, network := range []string{"udp", "tcp"} {
			client := dns.Client{Net: network, Timeout: 100 * time.Millisecond}
			for ctx.Err() == nil {
				if _, _, err := client.ExchangeContext(ctx, q, at.String()); err == nil {
					break
				}
			}
		}
	}
}
