package dns

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
)

// Annotation is on the Node of every node whose DNS server answers; its value is an [Endpoint].
const Annotation = "limpet.io/dns"

const (
	// maxAnnotation and maxAddresses bound what is read of another node's annotation.
	maxAnnotation = 1024
	maxAddresses  = 8
)

// Endpoint is where the DNS server of a node answers. In the annotation it is
// JSON, e.g. {"addresses":["192.0.2.1","2001:db8::1"],"port":10053,"metricsPort":9153}.
type Endpoint struct {
	// Addresses are addresses of the node, at least one, without zones.
	Addresses []netip.Addr `json:"addresses"`
	// Port is both the UDP and the TCP port.
	Port uint16 `json:"port"`
	// MetricsPort is that of Prometheus metrics; 0: none.
	MetricsPort uint16 `json:"metricsPort,omitempty"`
}

// String returns the value of the annotation; empty for an endpoint without
// addresses that others can reach, which is none.
func (e Endpoint) String() string {
	if len(e.Addresses) == 0 || e.Port == 0 {
		return ""
	}
	text, err := json.Marshal(e)
	if err != nil {
		return "" // cannot be: numbers and addresses
	}
	return string(text)
}

// ParseEndpoint reads the value of the annotation. Who wrote it may be a stolen
// node: everything is checked but whose the addresses are.
func ParseEndpoint(text string) (Endpoint, error) {
	if len(text) > maxAnnotation {
		return Endpoint{}, fmt.Errorf("longer than %d bytes", maxAnnotation)
	}
	var e Endpoint
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	if err := d.Decode(&e); err != nil {
		return Endpoint{}, fmt.Errorf("not the JSON of an endpoint: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Endpoint{}, errors.New("something follows the endpoint")
	}
	switch {
	case e.Port == 0:
		return Endpoint{}, errors.New("no port")
	case len(e.Addresses) == 0:
		return Endpoint{}, errors.New("no address")
	case len(e.Addresses) > maxAddresses:
		return Endpoint{}, fmt.Errorf("more than %d addresses", maxAddresses)
	}
	for _, a := range e.Addresses {
		if !reachable(a) {
			return Endpoint{}, fmt.Errorf("address %s is none that other nodes can reach", a)
		}
	}
	return e, nil
}

// reachable tells whether Kubernetes accepts the address as an endpoint.
func reachable(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() &&
		!a.IsUnspecified() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast()
}

// endpointAt is the endpoint of a server that listens on addrs, as far as others can reach it.
func endpointAt(addrs []netip.Addr, port, metricsPort int) Endpoint {
	addrs = slices.DeleteFunc(cleanAddrs(addrs), func(a netip.Addr) bool { return !reachable(a) })
	return Endpoint{Addresses: addrs[:min(len(addrs), maxAddresses)], Port: uint16(port), MetricsPort: uint16(metricsPort)}
}
