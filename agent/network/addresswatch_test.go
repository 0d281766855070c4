package network

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/limpetio/limpet/internal/restart"
)

func TestChanged(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr
	on := func(iface, a string) address { return address{Interface: iface, Addr: addr(a)} }
	v4, both := []netip.Addr{addr("192.0.2.10")}, []netip.Addr{addr("192.0.2.10"), addr("2001:db8::10")}
	fleeting := on("eth0", "2001:db8::99")
	fleeting.Fleeting = true
	tests := []struct {
		name   string
		nodeIP []netip.Addr
		all    []address
		iface  string
		reason string
		lost   bool
	}{
		{"still there", v4, []address{on("eth0", "192.0.2.10")}, "", "", false},
		{"still there, beside a better one", v4, []address{{Interface: "eth1", Addr: addr("198.51.100.1"), Default: true}, on("eth0", "192.0.2.10")}, "", "", false},
		{"on another interface", v4, []address{on("eth1", "192.0.2.10")}, "", "", false},
		{"another one", v4, []address{on("eth0", "192.0.2.77")}, "", "was 192.0.2.10 and is 192.0.2.77 now", false},
		{"none", v4, nil, "", "", true},
		{"only pods' ones", v4, []address{on("cni0", "10.42.0.1")}, "", "", true},
		{"none on the named interface", v4, []address{on("eth1", "192.0.2.77")}, "eth0", "", true},
		{"one of two", both, []address{on("eth0", "192.0.2.10"), on("eth0", "2001:db8::11")}, "", "was 2001:db8::10 and is 2001:db8::11 now", false},
		{"one replaced, one lost: too early", both, []address{on("eth0", "192.0.2.77")}, "", "", true},
		{"only one that will not stay", both, []address{on("eth0", "192.0.2.10"), fleeting}, "", "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			reason, err := changed(tt.nodeIP, tt.all, tt.iface)
			if (err != nil) != tt.lost || tt.reason == "" && reason != "" || !strings.Contains(reason, tt.reason) {
				t.Errorf("reason %q, error %v", reason, err)
			}
		})
	}
}

// TestAddressWatch takes the address of a real interface away, gives it back,
// and gives it another one.
func TestAddressWatch(t *testing.T) {
	index := inNetwork(t)
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		t.Fatal(err)
	}
	old, err := netlink.ParseAddr("192.0.2.1/24")
	if err != nil {
		t.Fatal(err)
	}
	other, err := netlink.ParseAddr("192.0.2.50/24")
	if err != nil {
		t.Fatal(err)
	}
	w := &AddressWatch{NodeIP: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Logger: slog.New(slog.DiscardHandler)}
	// The handle's socket is of this namespace, whichever thread uses it.
	handle, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	steps := make(chan struct{})
	go func() {
		defer close(steps)
		do := func(err error) {
			if err != nil {
				t.Error(err)
			}
		}
		time.Sleep(500 * time.Millisecond)
		do(handle.AddrDel(link, old))
		time.Sleep(500 * time.Millisecond)
		do(handle.AddrAdd(link, old)) // a renewed lease
		time.Sleep(addressSettle + time.Second)
		do(handle.AddrDel(link, old))
		do(handle.AddrAdd(link, other))
	}()
	begin := time.Now()
	err = w.Run(ctx, func() {}) // on this thread, which is in the namespace
	<-steps
	if needed := (*restart.Needed)(nil); !errors.As(err, &needed) || !strings.Contains(needed.Reason, "is 192.0.2.50 now") {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(begin); took < restartPause || took > restartPause+5*time.Second {
		t.Errorf("after %s, want %s from the start on", took, restartPause)
	}
}
