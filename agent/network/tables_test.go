package network

import (
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNetwork runs the test in a network namespace of its own, in which one
// interface, eth0, has 192.0.2.1/24 and 2001:db8::1/64. It returns its index.
func inNetwork(t *testing.T) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a network namespace")
	}
	// The thread is not given back: it ends with the test, and the namespace with it.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	eth0 := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "other"}
	if err := netlink.LinkAdd(eth0); err != nil {
		t.Fatal(err)
	}
	other, err := netlink.LinkByName(eth0.PeerName)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(other); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		addr.Flags = unix.IFA_F_NODAD // usable at once
		if err := netlink.AddrAdd(eth0, addr); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(eth0); err != nil {
		t.Fatal(err)
	}
	return eth0.Index
}

func addOverlay(t *testing.T, external int, v4 bool) int {
	t.Helper()
	dev := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: overlayV4, MTU: 1430}, VxlanId: 1, VtepDevIndex: external, Port: 8472}
	if !v4 {
		dev.SrcAddr = net.ParseIP("2001:db8::1")
	}
	if err := netlink.LinkAdd(dev); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(dev); err != nil {
		t.Fatal(err)
	}
	return dev.Index
}

func testPeer(subnet, public, mac string) peer {
	return peer{subnet: netip.MustParsePrefix(subnet), public: netip.MustParseAddr(public), mac: mac}
}

// TestApply lets nodes come, move and go, in the kernel.
func TestApply(t *testing.T) {
	for _, tt := range []struct {
		name, backend   string
		v4              bool
		one, moved, two peer
		service         routeEntry
	}{
		{"vxlan", backendVXLAN, true,
			testPeer("10.42.1.0/24", "192.0.2.11", "02:00:00:00:00:01"), testPeer("10.42.1.0/24", "192.0.2.12", "02:00:00:00:00:09"),
			testPeer("10.42.2.0/24", "192.0.2.22", "02:00:00:00:00:02"),
			routeEntry{dst: netip.MustParsePrefix("10.43.0.0/16"), source: netip.MustParseAddr("192.0.2.1")}},
		{"vxlan IPv6", backendVXLAN, false,
			testPeer("fd00:42:0:1::/64", "2001:db8::11", "02:00:00:00:00:01"), testPeer("fd00:42:0:1::/64", "2001:db8::12", "02:00:00:00:00:09"),
			testPeer("fd00:42:0:2::/64", "2001:db8::22", "02:00:00:00:00:02"),
			routeEntry{dst: netip.MustParsePrefix("fd00:43::/112"), source: netip.MustParseAddr("2001:db8::1")}},
		{"host-gw", backendHostGW, true,
			testPeer("10.42.1.0/24", "192.0.2.11", ""), testPeer("10.42.1.0/24", "192.0.2.12", ""),
			testPeer("10.42.2.0/24", "192.0.2.22", ""),
			routeEntry{dst: netip.MustParsePrefix("10.43.0.0/16"), source: netip.MustParseAddr("192.0.2.1")}},
		{"host-gw IPv6", backendHostGW, false,
			testPeer("fd00:42:0:1::/64", "2001:db8::11", ""), testPeer("fd00:42:0:1::/64", "2001:db8::12", ""),
			testPeer("fd00:42:0:2::/64", "2001:db8::22", ""),
			routeEntry{dst: netip.MustParsePrefix("fd00:43::/112"), source: netip.MustParseAddr("2001:db8::1")}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := underlay{backend: tt.backend, external: inNetwork(t)}
			if tt.backend == backendVXLAN {
				u.overlay = addOverlay(t, u.external, tt.v4)
			}
			tt.service.link = u.external
			foreign := foreignRoute(t, u.external, tt.v4)
			for _, peers := range [][]peer{{tt.one}, {tt.one, tt.two}, {tt.one, tt.two}, {tt.moved, tt.two}, {tt.two}, {}} {
				want := u.want(peers)
				want.routes = append(want.routes, tt.service)
				if err := u.apply(want, tt.v4); err != nil {
					t.Fatalf("%v: %v", peers, err)
				}
				mustHave(t, u, want, tt.v4)
			}
			if tt.backend == backendHostGW {
				stranger := testPeer("10.42.9.0/24", "198.51.100.1", "")
				if !tt.v4 {
					stranger = testPeer("fd00:42:0:9::/64", "2001:db8:ffff::1", "")
				}
				want := u.want([]peer{stranger, tt.two})
				if err := u.apply(want, tt.v4); err == nil || !strings.Contains(err.Error(), stranger.public.String()) {
					t.Errorf("a node in another network: %v", err)
				}
				mustHave(t, u, u.want([]peer{tt.two}), tt.v4)
			}
			family := netlink.FAMILY_V4
			if !tt.v4 {
				family = netlink.FAMILY_V6
			}
			if err := removeRoutes(family); err != nil {
				t.Fatal(err)
			}
			if routes, err := u.listRoutes(family); err != nil || len(routes) > 0 {
				t.Errorf("left after removal: %v, %v", routes, err)
			}
			if err := removeLink(overlayV4); err != nil {
				t.Error(err)
			}
			if err := removeLink(overlayV4); err != nil {
				t.Errorf("once more: %v", err)
			}
			if _, err := netlink.LinkByName(overlayV4); err == nil {
				t.Error("the overlay's interface is left")
			}
			if routes, err := netlink.RouteListFiltered(family, foreign, netlink.RT_FILTER_DST); err != nil || len(routes) != 1 {
				t.Errorf("somebody else's route: %v, %v", routes, err)
			}
		})
	}
}

// foreignRoute is a route of the machine's owner, which looks much like ours.
func foreignRoute(t *testing.T, link int, v4 bool) *netlink.Route {
	t.Helper()
	r := routeEntry{dst: netip.MustParsePrefix("10.99.0.0/16"), via: netip.MustParseAddr("192.0.2.77"), link: link}
	if !v4 {
		r = routeEntry{dst: netip.MustParsePrefix("fd99::/64"), via: netip.MustParseAddr("2001:db8::77"), link: link}
	}
	route := r.netlink()
	route.Protocol = unix.RTPROT_STATIC
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	return &netlink.Route{Dst: route.Dst}
}

func mustHave(t *testing.T, u underlay, want tables, v4 bool) {
	t.Helper()
	family := netlink.FAMILY_V4
	if !v4 {
		family = netlink.FAMILY_V6
	}
	routes, err := u.listRoutes(family)
	if err != nil {
		t.Fatal(err)
	}
	if !sameSet(routes, want.routes) {
		t.Errorf("routes %v, want %v", routes, want.routes)
	}
	if u.overlay == 0 {
		return
	}
	for _, tt := range []struct {
		family int
		want   []neighbour
	}{{family, want.neighbours}, {unix.AF_BRIDGE, want.forwarding}} {
		have, err := u.listNeighbours(tt.family)
		if err != nil {
			t.Fatal(err)
		}
		if !sameSet(have, tt.want) {
			t.Errorf("neighbours of family %d: %v, want %v", tt.family, have, tt.want)
		}
	}
}

func sameSet[T comparable](a, b []T) bool {
	in := func(list []T) func(T) bool { return func(e T) bool { return !slices.Contains(list, e) } }
	return len(a) == len(b) && !slices.ContainsFunc(a, in(b)) && !slices.ContainsFunc(b, in(a))
}
