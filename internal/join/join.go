// Package join defines what a server tells the agents that join it: the
// cluster-wide settings, published as JSON in one ConfigMap that bootstrap
// tokens and nodes may read.
package join

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/version"
)

// Where the settings are in the cluster.
const (
	Namespace = "kube-system"
	Name      = "limpet-join"
	// Key is the key of the ConfigMap's data that holds the JSON of a Config.
	Key = "config"
)

// Version is the version of the format that this package reads and writes.
// Fields may be added without changing it; agents ignore those they do not know.
const Version = 1

// MaxSize bounds the JSON, in bytes: a Config is a few KiB, most of it certificates.
const MaxSize = 256 << 10

// Config is what every node of the cluster has to know and agree on.
type Config struct {
	// Version is the version of the format: 1.
	Version int `json:"version"`

	// One range of each family, the primary one first.
	ClusterCIDR []netip.Prefix `json:"clusterCIDR"`
	ServiceCIDR []netip.Prefix `json:"serviceCIDR"`
	// ClusterDNS are addresses in ServiceCIDR.
	ClusterDNS    []netip.Addr `json:"clusterDNS"`
	ClusterDomain string       `json:"clusterDomain"`
	// FlannelBackend is vxlan, host-gw or none.
	FlannelBackend string `json:"flannelBackend"`
	// FlannelExternalIP: the overlay leads to the nodes' external addresses.
	FlannelExternalIP bool `json:"flannelExternalIP,omitempty"`

	// ServerCA verifies the servers, ClientCA verifies clients of the kubelet.
	// Each is a bundle of certificates in PEM.
	ServerCA string `json:"serverCA"`
	ClientCA string `json:"clientCA"`

	// Servers are the API servers, each as HOST:PORT; at least one.
	Servers []string `json:"servers"`

	DisableKubeProxy bool `json:"disableKubeProxy,omitempty"`
	// Disable names the packaged components the cluster does without.
	Disable []string `json:"disable,omitempty"`

	// KubernetesVersion (v1.37.2) and LimpetVersion are the server's.
	KubernetesVersion string `json:"kubernetesVersion"`
	LimpetVersion     string `json:"limpetVersion"`
}

// VersionError tells that the settings are in a format that this limpet does
// not know.
type VersionError struct{ Got int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("the settings have format %d; this limpet knows format %d", e.Got, Version)
}

// Parse reads and validates the JSON of a Config. A format that is not known
// is a *VersionError; every other defect is an error that names the field.
func Parse(data []byte) (Config, error) {
	if len(data) > MaxSize {
		return Config{}, fmt.Errorf("parse join settings: %d bytes are more than the %d allowed", len(data), MaxSize)
	}
	// The version decides how the rest is to be read.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Config{}, fmt.Errorf("parse join settings: %w", err)
	}
	if head.Version != Version {
		return Config{}, fmt.Errorf("parse join settings: %w", &VersionError{Got: head.Version})
	}
	var c Config
	if err := json.Unmarshal(data, &c); err != nil {
		return Config{}, fmt.Errorf("parse join settings: %w", err)
	}
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("parse join settings: %w", err)
	}
	return c, nil
}

// Marshal returns the JSON of a valid Config, with Version set. The same
// Config gives the same bytes.
func (c Config) Marshal() ([]byte, error) {
	c.Version = Version
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("write join settings: %w", err)
	}
	data, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write join settings: %w", err)
	}
	return data, nil
}

// Equal reports whether both have the same JSON.
func (c Config) Equal(other Config) bool {
	a, errA := json.Marshal(c)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// Differs names the first setting by which a node runs that is another one in
// next; empty if there is none. The versions and the list of servers are no such
// settings.
func (c Config) Differs(next Config) string {
	for _, f := range []struct {
		name string
		same bool
	}{
		{"clusterCIDR", slices.Equal(c.ClusterCIDR, next.ClusterCIDR)},
		{"serviceCIDR", slices.Equal(c.ServiceCIDR, next.ServiceCIDR)},
		{"clusterDNS", slices.Equal(c.ClusterDNS, next.ClusterDNS)},
		{"clusterDomain", c.ClusterDomain == next.ClusterDomain},
		{"flannelBackend", c.FlannelBackend == next.FlannelBackend},
		{"flannelExternalIP", c.FlannelExternalIP == next.FlannelExternalIP},
		{"serverCA", c.ServerCA == next.ServerCA},
		{"clientCA", c.ClientCA == next.ClientCA},
		{"disableKubeProxy", c.DisableKubeProxy == next.DisableKubeProxy},
		{"disable", slices.Equal(c.Disable, next.Disable)},
	} {
		if !f.same {
			return f.name
		}
	}
	return ""
}

// Validate checks every field and returns all that is wrong.
func (c Config) Validate() error {
	return errors.Join(
		ranges("clusterCIDR", c.ClusterCIDR),
		ranges("serviceCIDR", c.ServiceCIDR),
		c.validateDNS(),
		backend(c.FlannelBackend),
		bundle("serverCA", c.ServerCA),
		bundle("clientCA", c.ClientCA),
		servers(c.Servers),
		c.validateVersion(),
	)
}

func ranges(field string, list []netip.Prefix) error {
	switch {
	case len(list) == 0 || len(list) > 2:
		return fmt.Errorf("%s: %d ranges; want one for each address family", field, len(list))
	case len(list) == 2 && list[0].Addr().Is4() == list[1].Addr().Is4():
		return fmt.Errorf("%s: both ranges are of the same address family", field)
	}
	for _, p := range list {
		if !p.IsValid() {
			return fmt.Errorf("%s: a range is empty", field)
		}
	}
	return nil
}

func (c Config) validateDNS() error {
	if len(c.ClusterDNS) > 2 {
		return fmt.Errorf("clusterDNS: %d addresses; want at most one for each address family", len(c.ClusterDNS))
	}
	for _, a := range c.ClusterDNS {
		if !slices.ContainsFunc(c.ServiceCIDR, func(p netip.Prefix) bool { return p.Contains(a) }) {
			return fmt.Errorf("clusterDNS: %v is not in serviceCIDR", a)
		}
	}
	if errs := validation.IsDNS1123Subdomain(c.ClusterDomain); len(errs) > 0 {
		return fmt.Errorf("clusterDomain: %q is not a domain: %s", c.ClusterDomain, errs[0])
	}
	return nil
}

func backend(name string) error {
	if known := []string{"vxlan", "host-gw", "none"}; !slices.Contains(known, name) {
		return fmt.Errorf("flannelBackend: %q is not one of %v", name, known)
	}
	return nil
}

// bundle checks that text is certificates in PEM and nothing else.
func bundle(field, text string) error {
	n := 0
	for rest := []byte(text); len(bytes.TrimSpace(rest)) > 0; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return fmt.Errorf("%s: holds something that is not a certificate in PEM", field)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
	}
	if n == 0 {
		return fmt.Errorf("%s: no certificate", field)
	}
	return nil
}

func servers(list []string) error {
	if len(list) == 0 {
		return errors.New("servers: there is none")
	}
	for _, s := range list {
		host, port, err := net.SplitHostPort(s)
		if err != nil {
			return fmt.Errorf("servers: %q is not HOST:PORT", s)
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("servers: %q has no usable port", s)
		}
		if _, err := netip.ParseAddr(host); err != nil && len(validation.IsDNS1123Subdomain(host)) > 0 {
			return fmt.Errorf("servers: %q names neither an address nor a host", s)
		}
	}
	return nil
}

func (c Config) validateVersion() error {
	if _, err := version.ParseSemantic(c.KubernetesVersion); err != nil {
		return fmt.Errorf("kubernetesVersion: %w", err)
	}
	return nil
}
