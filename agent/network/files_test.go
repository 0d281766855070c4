package network

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/knftables"
)

func TestCNIConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := cniConfig{PodCIDRs: []string{"10.42.0.0/24", "fd00:42::/64"}, MTU: 1450, DataDir: "/run/limpet/cni/networks"}
	if err := writeCNIConfig(dir, c); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, cniConfFile)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Plugins []struct {
			Type string
			MTU  int
			IPAM struct {
				Ranges [][]struct{ Subnet string }
			}
		}
	}
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	if len(list.Plugins) != 3 || list.Plugins[0].Type != "bridge" || list.Plugins[0].MTU != 1450 {
		t.Errorf("plugins are %+v", list.Plugins)
	}
	if r := list.Plugins[0].IPAM.Ranges; len(r) != 2 || r[1][0].Subnet != "fd00:42::/64" {
		t.Errorf("ranges are %+v", r)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeCNIConfig(dir, c); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Error("an unchanged configuration was written again: containerd would reload it")
	}
}

func TestMasqueradeRules(t *testing.T) {
	t.Parallel()
	fake := knftables.NewFake(knftables.IPv4Family, masqueradeTable)
	cidr := netip.MustParsePrefix("10.42.0.0/16")
	for range 2 { // a second start must not add the rules twice
		if err := fake.Run(context.Background(), masqueradeRules(fake, knftables.IPv4Family, cidr, "224.0.0.0/4")); err != nil {
			t.Fatal(err)
		}
	}
	dump := fake.Dump()
	if strings.Count(dump, "add rule") != 2 || !strings.Contains(dump, "ip saddr 10.42.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random") {
		t.Errorf("rules are\n%s", dump)
	}
}

func TestExternalInterfaceNeedsNoRoute(t *testing.T) {
	t.Parallel()
	ext, err := externalInterface("", []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if err != nil || ext.Iface.Name != "lo" {
		t.Fatalf("externalInterface = %+v, %v", ext, err)
	}
	if _, err := externalInterface("", []netip.Addr{netip.MustParseAddr("192.0.2.1")}); err == nil {
		t.Error("an address that no interface has was taken")
	}
}
