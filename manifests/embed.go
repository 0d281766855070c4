// Package manifests holds the YAML that every cluster gets. The controller in
// server/deploy applies it at start and puts in the values of Variables.
package manifests

import (
	"embed"
	"io/fs"
	"net/netip"
	"strings"
)

//go:embed *.yaml
var files embed.FS

// FS returns the manifests, all in the root. The name of a file without its
// extension is the name of a packaged component (--disable).
func FS() fs.FS { return files }

// Variables are the values for %{NAME}% in the manifests. clusterDNS are the
// addresses of the Service kube-dns, the primary family first: at least one,
// at most one of each family. clusterDomain has no trailing dot.
func Variables(clusterDNS []netip.Addr, clusterDomain string) map[string]string {
	quoted := make([]string, len(clusterDNS))
	for i, a := range clusterDNS {
		quoted[i] = `"` + a.String() + `"`
	}
	vars := map[string]string{
		"CLUSTER_DNS_IPS": "[" + strings.Join(quoted, ", ") + "]",
		"CLUSTER_DOMAIN":  clusterDomain,
	}
	if len(clusterDNS) > 0 {
		vars["CLUSTER_DNS"] = clusterDNS[0].String()
	}
	return vars
}
