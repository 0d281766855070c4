package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/flannel-io/flannel/pkg/backend"
)

// externalInterface describes the interface that the overlay runs over. It
// needs no default route: the node's address names the interface. A named
// interface that does not have the node's address is used with its own.
func externalInterface(name string, nodeIP []netip.Addr) (*backend.ExternalInterface, error) {
	ext := &backend.ExternalInterface{}
	var err error
	if name == "" {
		ext.Iface, err = interfaceOf(nodeIP)
	} else if ext.Iface, err = net.InterfaceByName(name); err != nil {
		err = fmt.Errorf("--flannel-iface %s: %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	ext.IfaceName = ext.Iface.Name
	for _, addr := range nodeIP {
		if name != "" {
			if addr, err = addressOn(name, addr); err != nil {
				return nil, fmt.Errorf("--flannel-iface %s: %w", name, err)
			}
		}
		if addr.Is4() {
			ext.IfaceAddr, ext.ExtAddr = addr.AsSlice(), addr.AsSlice()
		} else {
			ext.IfaceV6Addr, ext.ExtV6Addr = addr.AsSlice(), addr.AsSlice()
		}
	}
	return ext, nil
}

// addressOn returns addr if the interface has it, else one of its family that it has.
func addressOn(iface string, addr netip.Addr) (netip.Addr, error) {
	all, err := candidates()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range all {
		if a.Interface == iface && a.Addr == addr {
			return addr, nil
		}
	}
	family := netip.Addr.Is4
	if addr.Is6() {
		family = netip.Addr.Is6
	}
	return choose(all, family, iface)
}

func interfaceOf(nodeIP []netip.Addr) (*net.Interface, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, want := range nodeIP {
		for i := range interfaces {
			addrs, err := interfaces[i].Addrs()
			if err != nil {
				continue // the interface has gone since
			}
			for _, a := range addrs {
				if n, ok := a.(*net.IPNet); ok && n.IP.Equal(want.AsSlice()) {
					return &interfaces[i], nil
				}
			}
		}
	}
	return nil, fmt.Errorf("no interface has the node address %v; name one with --flannel-iface", nodeIP)
}
