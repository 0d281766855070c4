package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that are ours, in the kernel's own field for
// that (`ip route show proto 76`): nobody else's route is ever touched.
const routeProtocol = 76

// tables is what this node keeps in the kernel for the traffic to the others,
// in one family. The entries are comparable, so that what is there and what
// should be are sets.
type tables struct {
	routes     []routeEntry
	neighbours []neighbour // on the overlay's device
	forwarding []neighbour // the overlay's forwarding database: IP is the node that has the MAC
}

// routeEntry is one route.
type routeEntry struct {
	dst    netip.Prefix
	via    netip.Addr // invalid: the destination is on the link
	source netip.Addr // invalid: the kernel's choice
	link   int
}

// neighbour binds an address of an overlay's device.
type neighbour struct {
	ip  netip.Addr
	mac string
}

// underlay says where traffic leaves the node, in one family.
type underlay struct {
	backend  string
	external int // index of the interface that reaches the other nodes
	overlay  int // index of the vxlan device; 0 with host-gw
}

// want is what the kernel has to know of the peers.
func (u underlay) want(peers []peer) tables {
	var t tables
	for _, p := range peers {
		if u.backend != backendVXLAN {
			t.routes = append(t.routes, routeEntry{dst: p.subnet, via: p.public, link: u.external})
			continue
		}
		// The first address of a node's range is its overlay device's.
		vtep := p.subnet.Addr()
		t.routes = append(t.routes, routeEntry{dst: p.subnet, via: vtep, link: u.overlay})
		t.neighbours = append(t.neighbours, neighbour{vtep, p.mac})
		t.forwarding = append(t.forwarding, neighbour{p.public, p.mac})
	}
	return t
}

// serviceRoutes give the ranges of Services a route of their own. The kernel
// looks for a route before kube-proxy's rules turn a Service's address into an
// endpoint's: on a machine without a default route the node itself could not
// reach any Service. The route's device does not matter, its source address
// does: endpoints see the node's.
func serviceRoutes(serviceCIDR []netip.Prefix, link int, nodeIP []netip.Addr, v4 bool) []routeEntry {
	var routes []routeEntry
	for _, cidr := range serviceCIDR {
		for _, addr := range nodeIP {
			if cidr.Addr().Is4() == v4 && addr.Is4() == v4 {
				routes = append(routes, routeEntry{dst: cidr.Masked(), source: addr, link: link})
			}
		}
	}
	return routes
}

// apply makes the kernel's tables those wanted. It goes on after a failure, so
// that one bad entry costs only itself.
func (u underlay) apply(want tables, v4 bool) error {
	family := netlink.FAMILY_V4
	if !v4 {
		family = netlink.FAMILY_V6
	}
	var errs []error
	if u.overlay != 0 {
		errs = append(errs,
			u.applyNeighbours(want.neighbours, family, func(n neighbour) any { return n.ip }),
			u.applyNeighbours(want.forwarding, unix.AF_BRIDGE, func(n neighbour) any { return n.mac }))
	}
	// Last: without its neighbour the kernel would ask for a gateway that answers nobody.
	return errors.Join(append(errs, u.applyRoutes(want.routes, family))...)
}

// applyRoutes replaces a route that changed in one step; a route to a node that
// has gone is removed.
func (u underlay) applyRoutes(want []routeEntry, family int) error {
	have, err := u.listRoutes(family)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range want {
		if slices.Contains(have, r) {
			continue
		}
		if err := netlink.RouteReplace(r.netlink()); err != nil {
			errs = append(errs, explain(r, err))
		}
	}
	if have, err = u.listRoutes(family); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, r := range have {
		if slices.Contains(want, r) {
			continue
		}
		if err := netlink.RouteDel(r.netlink()); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to %s: %w", r.dst, err))
		}
	}
	return errors.Join(errs...)
}

func explain(r routeEntry, err error) error {
	if r.via.IsValid() && (errors.Is(err, syscall.ENETUNREACH) || errors.Is(err, syscall.EHOSTUNREACH)) {
		return fmt.Errorf("route to %s: its node %s is not in this node's network, which host-gw needs; use the backend vxlan", r.dst, r.via)
	}
	return fmt.Errorf("route to %s: %w", r.dst, err)
}

func (r routeEntry) netlink() *netlink.Route {
	out := &netlink.Route{
		LinkIndex: r.link, Protocol: routeProtocol,
		Dst: &net.IPNet{IP: r.dst.Addr().AsSlice(), Mask: net.CIDRMask(r.dst.Bits(), r.dst.Addr().BitLen())},
		Gw:  r.via.AsSlice(), Src: r.source.AsSlice(),
	}
	switch {
	case !r.via.IsValid():
		out.Scope = netlink.SCOPE_LINK
	case r.dst.Contains(r.via): // an overlay's gateway: it has no route of its own
		out.SetFlag(netlink.FLAG_ONLINK)
	}
	return out
}

// listRoutes lists the routes that are ours: those marked as such, and all by
// gateways of the overlay.
func (u underlay) listRoutes(family int) ([]routeEntry, error) {
	all, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var routes []routeEntry
	for _, r := range all {
		ours := r.Protocol == routeProtocol || u.overlay != 0 && r.LinkIndex == u.overlay && len(r.Gw) > 0
		if entry, ok := entryOf(r); ok && ours {
			routes = append(routes, entry)
		}
	}
	return routes, nil
}

func entryOf(r netlink.Route) (routeEntry, bool) {
	if r.Dst == nil {
		return routeEntry{}, false
	}
	addr, ok := netip.AddrFromSlice(r.Dst.IP)
	ones, _ := r.Dst.Mask.Size()
	entry := routeEntry{dst: netip.PrefixFrom(addr, ones), link: r.LinkIndex}
	if via, ok := netip.AddrFromSlice(r.Gw); ok {
		entry.via = via
	}
	if source, ok := netip.AddrFromSlice(r.Src); ok {
		entry.source = source
	}
	return entry, ok
}

// applyNeighbours does the same for addresses on the overlay's device: key is
// what the kernel finds an entry by.
func (u underlay) applyNeighbours(want []neighbour, family int, key func(neighbour) any) error {
	have, err := u.listNeighbours(family)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range have {
		if !slices.ContainsFunc(want, func(w neighbour) bool { return key(w) == key(n) }) {
			if err := netlink.NeighDel(u.neigh(n, family)); err != nil && !errors.Is(err, syscall.ENOENT) {
				errs = append(errs, fmt.Errorf("remove neighbour %s at %s: %w", n.mac, n.ip, err))
			}
		}
	}
	for _, n := range want {
		if slices.Contains(have, n) {
			continue
		}
		if err := netlink.NeighSet(u.neigh(n, family)); err != nil {
			errs = append(errs, fmt.Errorf("neighbour %s at %s: %w", n.mac, n.ip, err))
		}
	}
	return errors.Join(errs...)
}

func (u underlay) neigh(n neighbour, family int) *netlink.Neigh {
	mac, _ := net.ParseMAC(n.mac) // it has been parsed before
	entry := &netlink.Neigh{
		LinkIndex: u.overlay, State: netlink.NUD_PERMANENT, Family: family, IP: n.ip.AsSlice(), HardwareAddr: mac,
	}
	if family == unix.AF_BRIDGE {
		entry.Flags = netlink.NTF_SELF
	} else {
		entry.Type = unix.RTN_UNICAST
	}
	return entry
}

// listNeighbours lists the permanent entries of the overlay's device.
func (u underlay) listNeighbours(family int) ([]neighbour, error) {
	all, err := netlink.NeighList(u.overlay, family)
	if err != nil {
		return nil, fmt.Errorf("list neighbours: %w", err)
	}
	var list []neighbour
	for _, n := range all {
		if ip, ok := netip.AddrFromSlice(n.IP); ok && n.State&netlink.NUD_PERMANENT != 0 && len(n.HardwareAddr) == 6 {
			list = append(list, neighbour{ip.Unmap(), n.HardwareAddr.String()})
		}
	}
	return list, nil
}
