package dns

import (
	"io/fs"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/limpetio/limpet/manifests"
)

// TestDefaultIsTheManifest keeps the built-in Corefile and the packaged one
// equal: else every first start would swap the configuration.
func TestDefaultIsTheManifest(t *testing.T) {
	t.Parallel()
	b, err := fs.ReadFile(manifests.FS(), "coredns.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq(string(b), "---\n") {
		var cm corev1.ConfigMap
		if err := yaml.Unmarshal([]byte(doc), &cm); err != nil || cm.Kind != "ConfigMap" {
			continue
		}
		if got, want := cm.Data["Corefile"], DefaultCorefile("%{CLUSTER_DOMAIN}%"); got != want {
			t.Errorf("manifest:\n%s\nbuilt in:\n%s", got, want)
		}
		return
	}
	t.Error("no ConfigMap in coredns.yaml")
}
