package dns

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// cleanAddrs makes a list comparable: no zones, no mapped addresses, no duplicates, in the order given.
func cleanAddrs(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); a.IsValid() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// localAddresses returns this machine's addresses, sorted: where its own programs
// ask from. Link-local ones come and go with every pod; those within ranges
// are allowed anyway.
func localAddresses(listen []netip.Addr, ranges []netip.Prefix) ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses of the node: %w", err)
	}
	out := slices.Clone(listen)
	for _, addr := range all {
		p, err := netip.ParsePrefix(addr.String())
		if err != nil {
			continue
		}
		if a := p.Addr().Unmap().WithZone(""); !a.IsLinkLocalUnicast() && !within(a, ranges) {
			out = append(out, a)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

// hostPrefixes turns addresses that are not allowed already into prefixes, sorted.
func hostPrefixes(addrs []netip.Addr, allowed []netip.Prefix, listen []netip.Addr) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range addrs {
		if !within(a, allowed) && !slices.Contains(listen, a) {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return slices.Compact(out)
}

func within(a netip.Addr, ranges []netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) })
}
