package network

import (
	"context"
	"fmt"
	"net/netip"

	"sigs.k8s.io/knftables"
)

// masqueradeTable is a table of our own, one for each family: removing it
// removes every trace, and nobody else's rules are touched.
const masqueradeTable = "limpet-masquerade"

// masquerade gives pod traffic that leaves the cluster the node's address.
// Traffic within the cluster keeps the pod's address.
func masquerade(ctx context.Context, clusterCIDR []netip.Prefix) error {
	for _, cidr := range clusterCIDR {
		family, multicast := knftables.IPv4Family, "224.0.0.0/4"
		if cidr.Addr().Is6() {
			family, multicast = knftables.IPv6Family, "ff00::/8"
		}
		nft, err := knftables.New(family, masqueradeTable)
		if err != nil {
			return fmt.Errorf("nftables: %w", err)
		}
		if err := nft.Run(ctx, masqueradeRules(nft, family, cidr, multicast)); err != nil {
			return fmt.Errorf("table %s %s: %w", family, masqueradeTable, err)
		}
	}
	return nil
}

// masqueradeRules replaces the whole table in one transaction.
func masqueradeRules(nft knftables.Interface, family knftables.Family, cidr netip.Prefix, multicast string) *knftables.Transaction {
	const chain = "postrouting"
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("pod traffic that leaves the cluster")})
	tx.Add(&knftables.Chain{
		Name:     chain,
		Type:     knftables.PtrTo(knftables.NATType),
		Hook:     knftables.PtrTo(knftables.PostroutingHook),
		Priority: knftables.PtrTo(knftables.SNATPriority),
	})
	tx.Flush(&knftables.Chain{Name: chain})
	tx.Add(&knftables.Rule{Chain: chain, Rule: knftables.Concat(family, "saddr", cidr, family, "daddr", cidr, "return")})
	tx.Add(&knftables.Rule{
		Chain: chain,
		Rule:  knftables.Concat(family, "saddr", cidr, family, "daddr", "!=", multicast, "masquerade fully-random"),
	})
	return tx
}
