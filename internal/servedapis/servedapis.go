// Package servedapis knows which API versions and kinds limpet's API server has when
// nobody changes that: what somebody who asks a running cluster would see, for those
// who prepare something where there is none.
package servedapis

import (
	"slices"
	"strings"

	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kubernetes/pkg/controlplane"
)

// List returns versions (apps/v1) and kinds (apps/v1/Deployment), sorted.
func List() []string {
	enabled := controlplane.DefaultAPIResourceConfigSource()
	// These two groups are those of other servers in the same process.
	served := []string{
		"apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1/CustomResourceDefinition",
		"apiregistration.k8s.io/v1", "apiregistration.k8s.io/v1/APIService",
	}
	for _, gv := range scheme.Scheme.PrioritizedVersionsAllGroups() {
		if !enabled.GroupVersionConfigs[gv] {
			continue
		}
		served = append(served, gv.String())
		for kind := range scheme.Scheme.KnownTypes(gv) {
			if !strings.HasSuffix(kind, "List") && !strings.HasSuffix(kind, "Options") {
				served = append(served, gv.String()+"/"+kind)
			}
		}
	}
	slices.Sort(served)
	return slices.Compact(served)
}
