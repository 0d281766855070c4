package network

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// peer is another node as one address family sees it.
type peer struct {
	node    string
	created time.Time
	subnet  netip.Prefix // of its pods
	public  netip.Addr   // where it is reached
	mac     string       // of its vxlan device, canonical; empty with host-gw
}

// readPeers reads what the other nodes have published for a family. Nodes that
// have published nothing (yet) are left out, without a word.
func readPeers(nodes []*corev1.Node, self string, v4 bool, backendType string) (peers []peer, refused []error) {
	for _, node := range nodes {
		if node.Name == self || node.Annotations[annotationManaged] != "true" {
			continue
		}
		p, err := readPeer(node, v4, backendType)
		switch {
		case errors.Is(err, errNoSubnet):
		case err != nil:
			refused = append(refused, fmt.Errorf("node %s: %w", node.Name, err))
		default:
			peers = append(peers, p)
		}
	}
	return peers, refused
}

func readPeer(node *corev1.Node, v4 bool, backendType string) (peer, error) {
	p := peer{node: node.Name, created: node.CreationTimestamp.Time}
	public, data := annotationPublicIP, annotationData
	if !v4 {
		public, data = annotationPublicIPv6, annotationDataV6
	}
	subnet, err := podSubnet(node, v4)
	if err != nil {
		return peer{}, err
	}
	p.subnet = subnet
	if node.Annotations[public] == "" {
		return peer{}, errNoSubnet // a node without this family
	}
	if got := node.Annotations[annotationType]; got != backendType {
		return peer{}, fmt.Errorf("has the network backend %q, this node %q", got, backendType)
	}
	if p.public, err = netip.ParseAddr(node.Annotations[public]); err != nil {
		return peer{}, fmt.Errorf("annotation %s: %w", public, err)
	}
	if backendType == backendVXLAN {
		if p.mac, err = vtepMAC(node.Annotations[data]); err != nil {
			return peer{}, fmt.Errorf("annotation %s: %w", data, err)
		}
	}
	return p, nil
}

// vtepMAC reads the address of a vxlan device from flannel's annotation.
func vtepMAC(data string) (string, error) {
	var vtep struct{ VtepMAC string }
	if err := json.Unmarshal([]byte(data), &vtep); err != nil {
		return "", err
	}
	mac, err := net.ParseMAC(vtep.VtepMAC)
	if err != nil {
		return "", err
	}
	if len(mac) != 6 || mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return "", fmt.Errorf("%s is no address of a device", mac)
	}
	return mac.String(), nil
}

// mesh is what the other nodes of a family are measured by.
type mesh struct {
	network netip.Prefix // the cluster's
	own     netip.Prefix // this node's pods
	ownMAC  string
}

// accept keeps the peers that traffic may be sent to. What a node publishes is
// its own word: none may draw traffic to itself that is not for its pods. Of
// two that claim the same, the older one has it.
func (m mesh) accept(peers []peer) (good []peer, refused []error) {
	peers = slices.Clone(peers)
	slices.SortFunc(peers, func(a, b peer) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.node, b.node))
	})
	for _, p := range peers {
		if err := m.check(p, good); err != nil {
			refused = append(refused, fmt.Errorf("node %s: %w", p.node, err))
			continue
		}
		good = append(good, p)
	}
	return good, refused
}

func (m mesh) check(p peer, older []peer) error {
	switch {
	case p.subnet != p.subnet.Masked() || p.subnet.Bits() < m.network.Bits() || !m.network.Contains(p.subnet.Addr()):
		return fmt.Errorf("its pod range %s is not in the cluster's %s", p.subnet, m.network)
	case p.subnet.Overlaps(m.own):
		return fmt.Errorf("its pod range %s is this node's", p.subnet)
	case p.public.Is4() != p.subnet.Addr().Is4() || !p.public.IsGlobalUnicast():
		return fmt.Errorf("its address %s is none that a node can have", p.public)
	case p.mac != "" && p.mac == m.ownMAC:
		return fmt.Errorf("its overlay address %s is this node's", p.mac)
	}
	for _, o := range older {
		if p.subnet.Overlaps(o.subnet) {
			return fmt.Errorf("its pod range %s is that of node %s", p.subnet, o.node)
		}
		if p.mac != "" && p.mac == o.mac {
			return fmt.Errorf("its overlay address %s is that of node %s", p.mac, o.node)
		}
	}
	return nil
}
