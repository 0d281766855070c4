package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/limpetio/limpet/datastore/snapshot"
)

// Flannel backends.
const (
	FlannelVXLAN  = "vxlan"
	FlannelHostGW = "host-gw"
	FlannelNone   = "none"
)

// FlannelBackends are the values of flannel-backend.
func FlannelBackends() []string { return []string{FlannelVXLAN, FlannelHostGW, FlannelNone} }

// PackagedComponents are the values of disable: the manifests a cluster can do without.
func PackagedComponents() []string { return []string{"coredns", "upgrade-plans"} }

// DefaultPauseImage is the sandbox image that is inside the binary.
const DefaultPauseImage = "limpet.io/pause:1"

// Address ranges a cluster gets when none are given, by family.
func defaultClusterCIDR(v4 bool) netip.Prefix {
	if v4 {
		return netip.MustParsePrefix("10.42.0.0/16")
	}
	return netip.MustParsePrefix("fd00:42::/56")
}

func defaultServiceCIDR(v4 bool) netip.Prefix {
	if v4 {
		return netip.MustParsePrefix("10.43.0.0/16")
	}
	return netip.MustParsePrefix("fd00:43::/112")
}

// Complete fills in every default that the configuration alone decides, and
// the node name from hostname (os.Hostname) when none is given. Fields that
// depend on the machine, such as NodeIP, stay empty.
func (s *Server) Complete(hostname func() (string, error)) error {
	s.completeNetwork()
	setDefault(&s.HTTPSListenPort, 6443)
	setDefault(&s.ServiceNodePortRange, "30000-32767")
	setDefault(&s.ClusterDomain, "cluster.local")
	setDefault(&s.FlannelBackend, FlannelVXLAN)
	setDefault(&s.WriteKubeconfig, DefaultKubeconfig)
	setDefault(&s.WriteKubeconfigMode, 0o600)
	if err := s.Node.Complete(hostname); err != nil {
		return err
	}
	s.completeSnapshots()
	return nil
}

func (s *Server) completeSnapshots() {
	setDefault(&s.Snapshots.Schedule, snapshot.DefaultSchedule)
	setDefault(&s.Snapshots.Retention, snapshot.DefaultRetention)
	setDefault(&s.Snapshots.Dir, filepath.Join(s.DataDir, "server", "db", "snapshots"))
	setDefault(&s.Snapshots.Bucket.Endpoint, "s3.amazonaws.com")
	setDefault(&s.Snapshots.Bucket.BucketLookup, "auto")
	setDefault(&s.Snapshots.Bucket.Region, "us-east-1")
	setDefault(&s.Snapshots.Bucket.Timeout, 5*time.Minute)
}

// Complete is Server.Complete for the node alone.
func (n *Node) Complete(hostname func() (string, error)) error {
	setDefault(&n.DataDir, DefaultDataDir)
	setDefault(&n.PrivateRegistry, DefaultPrivateRegistry)
	setDefault(&n.Snapshotter, "overlayfs")
	setDefault(&n.PauseImage, DefaultPauseImage)
	setDefault(&n.DefaultRuntime, "runc")
	if n.NodeName != "" {
		return nil
	}
	name, err := hostname()
	if err != nil {
		return fmt.Errorf("find the host name, to use it as node name (or give --node-name): %w", err)
	}
	n.NodeName = strings.ToLower(strings.TrimSuffix(name, "."))
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// completeNetwork chooses ranges of the families that the user's own choices
// speak of: the other range, else the node's addresses, else IPv4.
func (s *Server) completeNetwork() {
	families := []bool{true} // true is IPv4; the first is the primary one
	switch {
	case len(s.ServiceCIDR) > 0:
		families = prefixFamilies(s.ServiceCIDR)
	case len(s.ClusterCIDR) > 0:
		families = prefixFamilies(s.ClusterCIDR)
	case len(s.NodeIP) > 0:
		families = addrFamilies(s.NodeIP)
	}
	if len(s.ClusterCIDR) == 0 {
		for _, v4 := range families {
			s.ClusterCIDR = append(s.ClusterCIDR, defaultClusterCIDR(v4))
		}
	}
	if len(s.ServiceCIDR) == 0 {
		for _, v4 := range families {
			s.ServiceCIDR = append(s.ServiceCIDR, defaultServiceCIDR(v4))
		}
	}
	if len(s.ClusterDNS) == 0 {
		for _, r := range s.ServiceCIDR {
			if a := nth(r, 10); a.IsValid() {
				s.ClusterDNS = append(s.ClusterDNS, a)
			}
		}
	}
	if !s.BindAddress.IsValid() {
		s.BindAddress = netip.IPv4Unspecified()
		if !slices.Contains(prefixFamilies(s.ServiceCIDR), true) {
			s.BindAddress = netip.IPv6Unspecified()
		}
	}
}

// nth is the address n after the first of the range; invalid when it is outside.
func nth(r netip.Prefix, n int) netip.Addr {
	a := r.Masked().Addr()
	for range n {
		a = a.Next()
	}
	if !r.Contains(a) {
		return netip.Addr{}
	}
	return a
}

func prefixFamilies(ranges []netip.Prefix) []bool {
	var out []bool
	for _, r := range ranges {
		out = append(out, r.Addr().Is4())
	}
	return out
}

func addrFamilies(addrs []netip.Addr) []bool {
	var out []bool
	for _, a := range addrs {
		out = append(out, a.Is4())
	}
	return out
}

func familyName(v4 bool) string {
	if v4 {
		return "IPv4"
	}
	return "IPv6"
}
