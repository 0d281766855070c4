package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// address is a candidate for the node's address.
type address struct {
	Interface string
	Addr      netip.Addr
	// Default is set when the family's default route leaves by the interface.
	Default bool
	// Fleeting is an address that is about to go, or is no good: deprecated,
	// temporary (IPv6 privacy), or taken by another machine.
	Fleeting bool
}

// NodeAddresses returns the addresses by which other machines reach this one:
// one for each wanted family, of the named interface if there is one, else of
// the default route's, else of the first interface that is up. A machine
// without any default route is a normal one.
func NodeAddresses(wantV4, wantV6 bool, iface string) ([]netip.Addr, error) {
	candidates, err := candidates()
	if err != nil {
		return nil, err
	}
	var chosen []netip.Addr
	for _, want := range []struct {
		wanted bool
		is     func(netip.Addr) bool
		family string
	}{{wantV4, netip.Addr.Is4, "IPv4"}, {wantV6, netip.Addr.Is6, "IPv6"}} {
		if !want.wanted {
			continue
		}
		addr, err := choose(candidates, want.is, iface)
		if err != nil {
			return nil, fmt.Errorf("find the node's %s address: %w; name one with --node-ip", want.family, err)
		}
		chosen = append(chosen, addr)
	}
	return chosen, nil
}

// choose is the decision of NodeAddresses for one family.
func choose(all []address, family func(netip.Addr) bool, iface string) (netip.Addr, error) {
	usable := slices.DeleteFunc(slices.Clone(all), func(a address) bool {
		return a.Fleeting || !family(a.Addr) || !a.Addr.IsGlobalUnicast() || iface != "" && a.Interface != iface || iface == "" && ours(a.Interface)
	})
	if i := slices.IndexFunc(usable, func(a address) bool { return a.Default }); i >= 0 {
		return usable[i].Addr, nil
	}
	if len(usable) > 0 {
		return usable[0].Addr, nil
	}
	if iface != "" {
		return netip.Addr{}, fmt.Errorf("interface %s has none", iface)
	}
	return netip.Addr{}, errors.New("no interface that is up has one")
}

// ours reports whether an interface belongs to pods or containers.
func ours(name string) bool {
	for _, prefix := range []string{"cni", "flannel", "veth", "docker", "br-", "cali", "nerdctl", "podman", "virbr"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

const fleeting = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_DADFAILED

// candidates lists the addresses of all interfaces that are up, in the kernel's order.
func candidates() ([]address, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	defaults := defaultRoutes()
	var found []address
	for _, link := range links {
		attrs := link.Attrs()
		if attrs.Flags&net.FlagUp == 0 || attrs.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			continue // the interface has gone since
		}
		for _, a := range addrs {
			addr, ok := netip.AddrFromSlice(a.IP)
			if !ok {
				continue
			}
			addr = addr.Unmap()
			family := netlink.FAMILY_V4
			if addr.Is6() {
				family = netlink.FAMILY_V6
			}
			found = append(found, address{Interface: attrs.Name, Addr: addr, Default: defaults[route{attrs.Index, family}], Fleeting: a.Flags&fleeting != 0})
		}
	}
	return found, nil
}

type route struct{ link, family int }

func defaultRoutes() map[route]bool {
	found := map[route]bool{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteList(nil, family)
		if err != nil {
			continue // no such family in this kernel
		}
		for _, r := range routes {
			if r.Dst == nil || r.Dst.IP.IsUnspecified() && isZero(r.Dst.Mask) {
				found[route{r.LinkIndex, family}] = true
			}
		}
	}
	return found
}

func isZero(mask net.IPMask) bool {
	ones, _ := mask.Size()
	return ones == 0
}
