package server

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/limpetio/limpet/agent"
	"github.com/limpetio/limpet/internal/dns"
	"github.com/limpetio/limpet/internal/machine"
)

// checkPorts finds a port that another program listens on, before anything is
// changed.
func (s *server) checkPorts() error {
	api := netip.AddrPortFrom(s.cfg.BindAddress, uint16(s.cfg.HTTPSListenPort))
	if err := machine.PortFree("the API server", api, "or choose another port with --https-listen-port"); err != nil {
		return err
	}
	if s.node == nil {
		return nil
	}
	ports := s.node.Ports()
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		if err := machine.PortFree(name, ports[name], "since a node needs this port"); err != nil {
			return err
		}
	}
	if s.dnsDisabled() {
		return nil
	}
	return machine.PortFree("DNS", netip.AddrPortFrom(s.cfg.NodeIP[0], dns.DefaultPort), "or leave out the DNS server with --disable "+agent.DNSAddon)
}
