package server

import (
	"log/slog"
	"net/netip"
	"slices"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/hostcheck"
)

// Check says what is wrong with the arguments for upstream's components. It
// changes nothing and needs no privileges. What depends on the machine (its
// addresses, its cgroups, its nameservers) is left to Run, so that a
// configuration can be checked before the machine that it is for is there.
func Check(cfg config.Server) error {
	s := &server{cfg: cfg, layout: layout{dataDir: cfg.DataDir}, log: slog.New(slog.DiscardHandler)}
	if host, err := hostcheck.Detect(); err == nil {
		s.host = host
	}
	if len(s.cfg.NodeIP) == 0 {
		s.cfg.NodeIP = exampleAddresses(cfg.ClusterCIDR)
	}
	if err := s.addresses(); err != nil {
		return err
	}
	return s.buildComponents()
}

// exampleAddresses are addresses of the same families; see RFC 5737 and RFC 3849.
func exampleAddresses(ranges []netip.Prefix) []netip.Addr {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	var out []netip.Addr
	for _, p := range ranges {
		addr := v4
		if p.Addr().Is6() {
			addr = v6
		}
		if !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out
}
