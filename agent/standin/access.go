package standin

import (
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// role is what a client is to this node.
type role int

const (
	stranger role = iota
	kubelet
	proxy
	network
	dns
)

// client is who asks.
type client struct {
	user string
	role role
}

// clientOf tells who asks by the certificate that TLS has verified.
func clientOf(node string, req *http.Request) client {
	if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return client{user: "nobody"}
	}
	subject := req.TLS.PeerCertificates[0].Subject
	return identify(node, subject.CommonName, subject.Organization)
}

// identify gives a certificate's user and groups their role on a node. What
// belongs to another node is a stranger here.
func identify(node, user string, groups []string) client {
	c := client{user: user}
	prefix, name, ok := cutLast(user, ":")
	if !ok || name != node {
		return c
	}
	group := prefix
	switch prefix {
	case "system:node":
		c.role, group = kubelet, "system:nodes"
	case "limpet:kube-proxy":
		c.role = proxy
	case "limpet:network":
		c.role = network
	case "limpet:dns":
		c.role = dns
	}
	if !slices.Contains(groups, group) {
		c.role = stranger
	}
	return c
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

// may decides as the cluster's own roles do, for what is recorded here: all of
// it is this node's share, so the kubelet may read it all.
func (c client) may(info *request.RequestInfo) bool {
	if c.role == stranger {
		return false
	}
	if c.role == kubelet {
		return kubeletMay(info)
	}
	if info.Resource == events {
		return info.Verb == "create" || info.Verb == "patch"
	}
	if !slices.Contains([]string{"get", "list", "watch"}, info.Verb) {
		return false
	}
	switch c.role {
	case proxy:
		return slices.Contains([]string{services, endpointSlices, nodes, serviceCIDRs}, info.Resource)
	case network:
		return info.Resource == nodes
	case dns:
		if info.Resource == configMaps {
			return info.Namespace == metav1.NamespaceSystem && slices.Contains(dnsConfigMaps(), info.Name)
		}
		return slices.Contains([]string{services, endpointSlices, nodes, namespaces, pods}, info.Resource)
	}
	return false
}

// kubeletMay lets the kubelet write what it owns.
func kubeletMay(info *request.RequestInfo) bool {
	switch info.Verb {
	case "get", "list", "watch":
		return true
	}
	return slices.Contains([]string{nodes, pods, leases, events, csiNodes, "serviceaccounts"}, info.Resource) ||
		// refused with its reason, see handler.unavailable
		!slices.Contains([]string{services, endpointSlices, namespaces, secrets, configMaps, claims, volumes, runtimeClasses, csiDrivers, serviceCIDRs}, info.Resource)
}
