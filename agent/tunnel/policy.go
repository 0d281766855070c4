package tunnel

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// Policy says what the server may reach through the tunnel of this node:
// the kubelet, and the node's pods. Nothing else, whoever asks: neither other
// ports of the machine nor its network nor a cloud's metadata service.
type Policy struct {
	// NodeName and KubeletPort are what the server calls the kubelet by.
	NodeName    string
	KubeletPort uint16
	// Kubelet is where the kubelet listens.
	Kubelet netip.AddrPort
}

// Pods is what the node knows of its pods' addresses at the moment.
type Pods struct {
	// Ranges are the node's own pod ranges.
	Ranges []netip.Prefix
	// Machine are all addresses of the machine itself. Some are inside of the
	// pod ranges, as the bridge's, and lead to every port of the machine.
	Machine []netip.Addr
}

// RefusedError tells why the node does not connect to Target.
type RefusedError struct {
	Target string
	Reason string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("this node does not connect to %q through the tunnel: %s", e.Target, e.Reason)
}

// kubelet reports whether target (HOST:PORT) is this node's kubelet.
func (p Policy) kubelet(target string) bool {
	return target == net.JoinHostPort(p.NodeName, strconv.Itoa(int(p.KubeletPort)))
}

// Resolve returns the address to connect to for target, which is HOST:PORT as
// the server sent it, or a *RefusedError.
func (p Policy) Resolve(target string, pods Pods) (netip.AddrPort, error) {
	if p.kubelet(target) {
		return p.Kubelet, nil
	}
	addr, err := netip.ParseAddrPort(target)
	switch {
	case err != nil:
		return netip.AddrPort{}, &RefusedError{target, "it is neither the kubelet of node " + p.NodeName + " nor an address and port"}
	case addr.Addr().Zone() != "":
		return netip.AddrPort{}, &RefusedError{target, "it names an interface"}
	case addr.Port() == 0:
		return netip.AddrPort{}, &RefusedError{target, "it has no port"}
	}
	ip := addr.Addr().Unmap()
	if !slices.ContainsFunc(pods.Ranges, func(r netip.Prefix) bool { return r.Contains(ip) }) {
		return netip.AddrPort{}, &RefusedError{target, "it is not in the pod range of node " + p.NodeName}
	}
	if slices.ContainsFunc(pods.Machine, func(a netip.Addr) bool { return a.Unmap().WithZone("") == ip }) {
		return netip.AddrPort{}, &RefusedError{target, "it is an address of the machine itself"}
	}
	return netip.AddrPortFrom(ip, addr.Port()), nil
}

// machineAddrs are the addresses of all interfaces.
func machineAddrs() ([]netip.Addr, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the machine's addresses: %w", err)
	}
	addrs := make([]netip.Addr, 0, len(list))
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				addrs = append(addrs, ip.Unmap())
			}
		}
	}
	return addrs, nil
}
