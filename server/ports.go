package server

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/limpetio/limpet/internal/dns"
)

// checkPorts finds a port that another program listens on, before anything is
// changed.
func (s *server) checkPorts() error {
	api := netip.AddrPortFrom(s.cfg.BindAddress, uint16(s.cfg.HTTPSListenPort))
	if err := portFree("the API server", api, "or choose another port with --https-listen-port"); err != nil {
		return err
	}
	if s.node == nil {
		return nil
	}
	ports := s.node.Ports()
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		if err := portFree(name, ports[name], "since a node needs this port"); err != nil {
			return err
		}
	}
	if slices.Contains(s.cfg.Disable, dnsAddon) {
		return nil
	}
	return portFree("DNS", netip.AddrPortFrom(s.cfg.NodeIP[0], dns.DefaultPort), "or leave out the DNS server with --disable "+dnsAddon)
}

func portFree(user string, at netip.AddrPort, remedy string) error {
	if at.Port() == 0 {
		return nil // switched off
	}
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %d, for %s, is taken by another program (ss -tlnp 'sport = %d' shows which); stop it %s", at.Port(), user, at.Port(), remedy)
	}
	if err != nil {
		return fmt.Errorf("listen on %s for %s: %w; %s", at, user, err, remedy)
	}
	return l.Close()
}
