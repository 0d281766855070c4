package dns

import "strings"

// DefaultCorefile is the Corefile used until the ConfigMap kube-system/coredns
// exists; the packaged manifest holds the same text. clusterDomain has no
// trailing dot, e.g. "cluster.local".
//
// Names of the cluster are answered from memory and would only go stale in the
// cache, hence the two disable lines (kubeadm has them too).
func DefaultCorefile(clusterDomain string) string {
	return strings.ReplaceAll(`.:53 {
    errors
    kubernetes DOMAIN in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    hosts /etc/coredns/NodeHosts {
        ttl 60
        fallthrough
    }
    prometheus :9153
    forward . /etc/resolv.conf {
        max_concurrent 1000
    }
    cache 30 {
        disable success DOMAIN
        disable denial DOMAIN
    }
    loadbalance
    import /etc/coredns/custom/*.override
}
import /etc/coredns/custom/*.server
`, "DOMAIN", clusterDomain)
}
