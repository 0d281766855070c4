package upgrades

import (
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/limpetio/limpet/internal/nodeupgrade"
	"github.com/limpetio/limpet/manifests"
)

func definition(t *testing.T) apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	data, err := fs.ReadFile(manifests.FS(), Name+".yaml") // also the name that --disable takes
	if err != nil {
		t.Fatal(err)
	}
	var d apiextensionsv1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// The API server drops what the definition does not name.
func TestDefinitionHasEveryField(t *testing.T) {
	t.Parallel()
	d := definition(t)
	r := Resource()
	if d.Name != r.GroupResource().String() || d.Spec.Names.Kind != kind || len(d.Spec.Versions) != 1 || d.Spec.Versions[0].Name != r.Version {
		t.Fatalf("%s, %+v", d.Name, d.Spec.Names)
	}
	root := d.Spec.Versions[0].Schema.OpenAPIV3Schema
	same(t, "spec", reflect.TypeFor[Spec](), root.Properties["spec"])
	same(t, "spec.drain", reflect.TypeFor[Drain](), root.Properties["spec"].Properties["drain"])
	same(t, "status", reflect.TypeFor[Status](), root.Properties["status"])
	same(t, "status.nodes", reflect.TypeFor[Record](), *root.Properties["status"].Properties["nodes"].Items.Schema)
}

func same(t *testing.T, what string, of reflect.Type, schema apiextensionsv1.JSONSchemaProps) {
	t.Helper()
	var fields, properties []string
	for i := range of.NumField() {
		name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
		fields = append(fields, name)
	}
	for name := range schema.Properties {
		properties = append(properties, name)
	}
	slices.Sort(fields)
	slices.Sort(properties)
	if !slices.Equal(fields, properties) {
		t.Errorf("%s: the type has %q, the definition %q", what, fields, properties)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	spec := definition(t).Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
	for name, want := range map[string]string{"concurrency": "1", "timeout": `"5m"`} {
		if got := spec.Properties[name].Default; got == nil || string(got.Raw) != want {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}
	if defaultConcurrency != 1 || defaultTimeout != 5*time.Minute {
		t.Error("the defaults of the type are others")
	}
	for text, want := range map[string]time.Duration{"": defaultTimeout, "x": defaultTimeout, "90s": 90 * time.Second, "1ms": nodeupgrade.MinTimeout, "99999h": nodeupgrade.MaxTimeout} {
		if got := within(text); got != want {
			t.Errorf("within(%q) is %s, want %s", text, got, want)
		}
	}
}
