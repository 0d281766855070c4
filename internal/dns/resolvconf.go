package dns

import (
	"net/netip"
	"slices"
	"strings"
)

// maxUpstreams is as many as CoreDNS's forward takes.
const maxUpstreams = 15

// parseResolvConf returns the name servers of a resolv.conf(5), in order, without duplicates.
func parseResolvConf(text string) []netip.Addr {
	var servers []netip.Addr
	for l := range strings.Lines(text) {
		f := strings.Fields(l)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(f[1])
		if err != nil {
			continue // the C library ignores what it cannot read, too
		}
		if addr = addr.Unmap(); !slices.Contains(servers, addr) {
			servers = append(servers, addr)
		}
	}
	return servers
}

// isResolvedStub tells whether the name servers are only systemd-resolved's
// stub, which hides the real ones in another file.
func isResolvedStub(servers []netip.Addr) bool {
	return len(servers) > 0 && !slices.ContainsFunc(servers, func(a netip.Addr) bool {
		return a != netip.AddrFrom4([4]byte{127, 0, 0, 53}) && a != netip.AddrFrom4([4]byte{127, 0, 0, 54})
	})
}

// ownAddresses are the addresses at which this DNS server is asked. Forwarding to one is a loop.
type ownAddresses struct {
	listen     []netip.Addr // with port
	port       int
	clusterDNS []netip.Addr // always at port 53
}

// leadsBack tells whether a query sent to the address would come back here.
// A resolver of the machine on another port or on loopback is not us; should it
// forward to us nevertheless, the loop guard stops it.
func (o ownAddresses) leadsBack(to netip.AddrPort) bool {
	a := to.Addr().Unmap().WithZone("")
	if a.IsUnspecified() || a.IsMulticast() {
		return true
	}
	if slices.Contains(o.clusterDNS, a) {
		return true
	}
	return int(to.Port()) == o.port && slices.Contains(o.listen, a)
}

// usable returns the servers that do not lead back here, as forward writes them.
func (o ownAddresses) usable(servers []netip.Addr) []string {
	var out []string
	for _, a := range servers {
		if !o.leadsBack(netip.AddrPortFrom(a, 53)) && len(out) < maxUpstreams {
			out = append(out, a.String())
		}
	}
	return out
}
