package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// routeServices gives the ranges of Services a route of their own. The kernel
// looks for a route before kube-proxy's rules turn a Service's address into an
// endpoint's: on a machine without a default route the node itself could not
// reach any Service. The route's device does not matter, its source address
// does: endpoints see the node's.
func routeServices(serviceCIDR []netip.Prefix, link int, nodeIP []netip.Addr) error {
	for _, cidr := range serviceCIDR {
		for _, addr := range nodeIP {
			if addr.Is4() != cidr.Addr().Is4() {
				continue
			}
			err := netlink.RouteReplace(&netlink.Route{
				LinkIndex: link,
				Dst:       &net.IPNet{IP: cidr.Masked().Addr().AsSlice(), Mask: net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen())},
				Src:       addr.AsSlice(),
				Scope:     netlink.SCOPE_LINK,
			})
			if err != nil {
				return fmt.Errorf("route %s by the interface of %s: %w", cidr, addr, err)
			}
		}
	}
	return nil
}
