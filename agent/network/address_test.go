package network

import (
	"net/netip"
	"testing"
)

func TestChoose(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr
	eth0 := address{Interface: "eth0", Addr: addr("192.0.2.10")}
	wlan := address{Interface: "wlan0", Addr: addr("198.51.100.20"), Default: true}
	tests := []struct {
		name  string
		all   []address
		is    func(netip.Addr) bool
		iface string
		want  string // empty: an error
	}{
		{"the default route's interface wins", []address{eth0, wlan}, netip.Addr.Is4, "", "198.51.100.20"},
		{"a named interface wins over it", []address{eth0, wlan}, netip.Addr.Is4, "eth0", "192.0.2.10"},
		{"no default route at all", []address{eth0}, netip.Addr.Is4, "", "192.0.2.10"},
		{"pods' interfaces are not the node's", []address{{Interface: "cni0", Addr: addr("10.42.0.1")}, {Interface: "flannel.1", Addr: addr("10.42.0.0")}, eth0}, netip.Addr.Is4, "", "192.0.2.10"},
		{"link-local addresses reach nobody", []address{{Interface: "eth0", Addr: addr("fe80::1")}, {Interface: "eth0", Addr: addr("2001:db8::1")}}, netip.Addr.Is6, "", "2001:db8::1"},
		{"nothing of the family", []address{eth0}, netip.Addr.Is6, "", ""},
		{"the named interface has none", []address{eth0}, netip.Addr.Is4, "eth9", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := choose(tt.all, tt.is, tt.iface)
			if (err != nil) != (tt.want == "") {
				t.Fatalf("choose = %v, %v", got, err)
			}
			if err == nil && got != addr(tt.want) {
				t.Errorf("choose = %v, want %v", got, tt.want)
			}
		})
	}
}
