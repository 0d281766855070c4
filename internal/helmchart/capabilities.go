package helmchart

import (
	"slices"

	"helm.sh/helm/v4/pkg/chart/common"
)

// definedBy are the versions and kinds that definitions add.
func definedBy(definitions []object) common.VersionSet {
	var added common.VersionSet
	for _, o := range definitions {
		spec, _ := o.content["spec"].(map[string]any)
		names, _ := spec["names"].(map[string]any)
		group, _ := spec["group"].(string)
		kind, _ := names["kind"].(string)
		versions, _ := spec["versions"].([]any)
		for _, v := range versions {
			version, _ := v.(map[string]any)
			name, _ := version["name"].(string)
			if served, _ := version["served"].(bool); served && group != "" && name != "" {
				added = append(added, group+"/"+name, group+"/"+name+"/"+kind)
			}
		}
	}
	slices.Sort(added)
	return slices.Compact(added)
}
