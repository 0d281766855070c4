package servedapis

import (
	"slices"
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	t.Parallel()
	list := List()
	for _, want := range []string{
		"v1", "v1/Pod", "apps/v1", "apps/v1/Deployment", "policy/v1/PodDisruptionBudget", "networking.k8s.io/v1/Ingress",
		"apiextensions.k8s.io/v1/CustomResourceDefinition", "apiregistration.k8s.io/v1",
	} {
		if _, ok := slices.BinarySearch(list, want); !ok {
			t.Errorf("%s is missing", want)
		}
	}
	for _, s := range list {
		group, version, grouped := strings.Cut(s, "/")
		if !grouped {
			version = group
		}
		if strings.Contains(version, "alpha") || strings.Contains(version, "beta") || strings.HasSuffix(s, "Options") || strings.HasSuffix(s, "List") {
			t.Errorf("%s is not served", s)
		}
	}
}
