// Package dns is the cluster's DNS server: CoreDNS, in this process.
//
// Users configure it as they know it from a CoreDNS pod: the ConfigMap
// kube-system/coredns holds the Corefile and NodeHosts, coredns-custom holds
// *.override and *.server snippets, and changes are picked up live. Since there
// is no pod, three things of the pod are provided here instead:
//
//   - Files. /etc/coredns/KEY and /etc/coredns/custom/KEY are the keys of the two
//     ConfigMaps; no other file of the machine can be read through a Corefile.
//   - The network identity. The server listens on the node's addresses, on a
//     port that does not collide with a resolver of the machine; the Service
//     kube-dns reaches it through an EndpointSlice, and only pods and nodes are answered.
//   - The resolver of the machine. "/etc/resolv.conf" in a forward means the
//     node's name servers without those that would lead back here.
//
// The pure half (lex, expand, compile, resolv.conf) turns inputs into one Corefile
// text; the other half (engine, source, publish) watches the inputs and applies it.
//
// CoreDNS keeps its directives, plugins and metrics in package variables, so a
// process can run one [Server] at a time.
package dns
