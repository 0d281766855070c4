package network

import (
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"sigs.k8s.io/knftables"

	"github.com/limpetio/limpet/internal/payload"
)

// TestRemove uses the real nft: ours goes, somebody else's stays.
func TestRemove(t *testing.T) {
	inNetwork(t)
	dir, err := payload.Unpack(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir.Bin()+":"+os.Getenv("PATH"))
	ruleset := func() string {
		out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		if err != nil {
			t.Fatalf("nft list ruleset: %v: %s", err, out)
		}
		return string(out)
	}
	both := []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/56")}
	for range 2 { // a restart
		if err := masquerade(t.Context(), both); err != nil {
			t.Fatal(err)
		}
	}
	for family, table := range map[knftables.Family]string{knftables.IPv4Family: "kube-proxy", knftables.IPv6Family: "firewall"} {
		nft, err := knftables.New(family, table)
		if err != nil {
			t.Fatal(err)
		}
		tx := nft.NewTransaction()
		tx.Add(&knftables.Table{})
		if err := nft.Run(t.Context(), tx); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge}}); err != nil {
		t.Fatal(err)
	}
	before := ruleset()
	for _, want := range []string{"table ip limpet-masquerade", "table ip6 limpet-masquerade", "table ip kube-proxy", "masquerade"} {
		if !strings.Contains(before, want) {
			t.Fatalf("no %s in\n%s", want, before)
		}
	}
	traces, err := Traces([]string{"ip limpet-masquerade", "ip6 limpet-masquerade", "ip kube-proxy", "ip6 firewall"})
	if err != nil || len(traces) != 4 {
		t.Fatalf("found %v, %v", traces, err)
	}
	for range 2 { // what is not there is no failure
		for _, trace := range traces {
			if err := trace.Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	after := ruleset()
	if strings.Contains(after, "limpet") || strings.Contains(after, "kube-proxy") || !strings.Contains(after, "table ip6 firewall") {
		t.Errorf("left is\n%s", after)
	}
	if _, err := netlink.LinkByName(bridge); err == nil {
		t.Error("the pods' bridge is left")
	}
}
