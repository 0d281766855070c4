package manifests

import (
	"io/fs"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/limpetio/limpet/internal/dns"
)

// The DNS server starts before the ConfigMap exists, with its own Corefile. If
// that were another one, it would reload at every start.
func TestCorefileIsTheBuiltInOne(t *testing.T) {
	t.Parallel()
	data, err := fs.ReadFile(FS(), "coredns.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	for name, value := range Variables([]netip.Addr{netip.MustParseAddr("10.43.0.10")}, "site.local") {
		text = strings.ReplaceAll(text, "%{"+name+"}%", value)
	}
	var config corev1.ConfigMap
	var service corev1.Service
	docs := strings.Split(text, "\n---\n")
	if len(docs) != 2 {
		t.Fatalf("%d documents, want 2", len(docs))
	}
	for i, into := range []any{&config, &service} {
		if err := yaml.UnmarshalStrict([]byte(docs[i]+"\n"), into); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := config.Data["Corefile"], dns.DefaultCorefile("site.local"); got != want {
		t.Errorf("the Corefile is\n%s\nwant\n%s", got, want)
	}
	if service.Spec.ClusterIP != "10.43.0.10" || len(service.Spec.Selector) > 0 {
		t.Errorf("the Service is %+v", service.Spec)
	}
}

func TestVariables(t *testing.T) {
	t.Parallel()
	got := Variables([]netip.Addr{netip.MustParseAddr("10.43.0.10"), netip.MustParseAddr("fd00:43::a")}, "cluster.local")
	for name, want := range map[string]string{
		"CLUSTER_DNS": "10.43.0.10", "CLUSTER_DNS_IPS": `["10.43.0.10", "fd00:43::a"]`, "CLUSTER_DOMAIN": "cluster.local",
	} {
		if got[name] != want {
			t.Errorf("%s = %q, want %q", name, got[name], want)
		}
	}
}
