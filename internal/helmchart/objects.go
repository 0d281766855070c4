package helmchart

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	chartv2 "helm.sh/helm/v4/pkg/chart/v2"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// hookAnnotation makes an object a hook of Helm's.
const hookAnnotation = "helm.sh/hook"

// object is one Kubernetes object of a chart.
type object struct {
	source  string // file of the chart
	content map[string]any
}

// assemble makes one manifest of the definitions and the rendered files.
func (o *Options) assemble(r *Rendered, definitions []object, files map[string]string) error {
	var kept []object
	var hooks []string
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if path.Base(file) == "NOTES.txt" { // for those who run Helm
			continue
		}
		objects, err := objectsOf(file, []byte(files[file]))
		if err != nil {
			return err
		}
		for _, obj := range objects {
			what, when := obj.hook()
			switch {
			case what == hookNever, what == hookOnce && o.Hooks == SkipHooks:
				r.LeftOut = append(r.LeftOut, fmt.Sprintf("%s (%s)", obj, when))
				continue
			case what == hookOnce && o.Hooks == RefuseHooks:
				hooks = append(hooks, fmt.Sprintf("%s (%s)", obj, when))
			}
			kept = append(kept, obj)
		}
	}
	if len(hooks) > 0 {
		return fmt.Errorf("limpet applies manifests, and runs nothing before or after that, but the chart has hooks: %s; "+
			"they can become objects like all others (%s), or be left out (%s): look what they do", strings.Join(hooks, ", "), PlainHooks, SkipHooks)
	}
	if len(kept)+len(definitions) == 0 {
		return errors.New("nothing comes out of the chart with these values")
	}
	return o.write(r, append(slices.Clone(definitions), kept...))
}

// write puts the namespace into all objects that have none.
func (o *Options) write(r *Rendered, objects []object) error {
	if o.createsNamespace(objects) {
		objects = append([]object{{source: "the namespace of the release", content: map[string]any{
			"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": o.Namespace},
		}}}, objects...)
	}
	seen := map[string]string{}
	var out bytes.Buffer
	for _, obj := range objects {
		if !obj.clusterWide(objects) {
			if meta := obj.metadata(); meta["namespace"] == nil || meta["namespace"] == "" {
				meta["namespace"] = o.Namespace
			}
		}
		if other, twice := seen[obj.key()]; twice {
			return fmt.Errorf("%s is there twice: in %s and in %s", obj, other, obj.source)
		}
		seen[obj.key()] = obj.source
		data, err := yaml.Marshal(obj.content)
		if err != nil {
			return fmt.Errorf("%s: %w", obj.source, err)
		}
		fmt.Fprintf(&out, "---\n# Source: %s\n%s", strings.Map(printable, obj.source), data)
	}
	r.Manifest = out.Bytes()
	return nil
}

// printable keeps the name of a file within its line of comment.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f || r == 0x85 || r == 0x2028 || r == 0x2029 {
		return '?'
	}
	return r
}

// createsNamespace: those that every cluster has are left alone, and so is one that
// the chart brings itself.
func (o *Options) createsNamespace(objects []object) bool {
	if o.Namespace == DefaultNamespace || strings.HasPrefix(o.Namespace, "kube-") || slices.Contains(o.Brought, o.Namespace) {
		return false
	}
	return !slices.ContainsFunc(objects, func(obj object) bool {
		return obj.content["kind"] == "Namespace" && obj.content["apiVersion"] == "v1" && obj.metadata()["name"] == o.Namespace
	})
}

// definitions are the objects of the crds directories, which are no templates.
func (o *Options) definitions(chart *chartv2.Chart) ([]object, error) {
	crds := chart.CRDObjects()
	slices.SortFunc(crds, func(a, b chartv2.CRD) int { return cmp.Compare(a.Filename, b.Filename) })
	var all []object
	for _, crd := range crds {
		objects, err := objectsOf(crd.Filename, crd.File.Data)
		if err != nil {
			return nil, err
		}
		all = append(all, objects...)
	}
	return all, nil
}

// objectsOf reads a rendered file, strictly: what a server would refuse later is
// refused now.
func objectsOf(file string, data []byte) ([]object, error) {
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	var all []object
	for n := 1; ; n++ {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		asJSON, err := yaml.YAMLToJSONStrict(doc)
		if err != nil {
			return nil, fmt.Errorf("%s, document %d: what the template makes is not YAML: %w", file, n, err)
		}
		var content any
		dec := json.NewDecoder(bytes.NewReader(asJSON))
		dec.UseNumber()
		if err := dec.Decode(&content); err != nil {
			return nil, fmt.Errorf("%s, document %d: %w", file, n, err)
		}
		if content == nil {
			continue // only comments, or nothing
		}
		objects, err := flatten(file, content)
		if err != nil {
			return nil, fmt.Errorf("%s, document %d: %w", file, n, err)
		}
		all = append(all, objects...)
	}
}

// flatten takes lists apart.
func flatten(file string, content any) ([]object, error) {
	fields, ok := content.(map[string]any)
	if !ok {
		return nil, errors.New("what the template makes is no Kubernetes object")
	}
	kind, _ := fields["kind"].(string)
	version, _ := fields["apiVersion"].(string)
	if kind == "" || version == "" {
		return nil, errors.New("an object has no kind or no apiVersion")
	}
	if items, ok := fields["items"].([]any); ok && strings.HasSuffix(kind, "List") {
		var all []object
		for _, item := range items {
			objects, err := flatten(file, item)
			if err != nil {
				return nil, err
			}
			all = append(all, objects...)
		}
		return all, nil
	}
	obj := object{source: file, content: fields}
	if name, _ := obj.metadata()["name"].(string); name == "" {
		return nil, fmt.Errorf("a %s has no metadata.name", kind)
	}
	return []object{obj}, nil
}

// metadata of the object; made if there is none.
func (o object) metadata() map[string]any {
	meta, ok := o.content["metadata"].(map[string]any)
	if !ok {
		meta = map[string]any{}
		o.content["metadata"] = meta
	}
	return meta
}

func (o object) String() string {
	return fmt.Sprintf("%v/%v", o.content["kind"], o.metadata()["name"])
}

func (o object) key() string {
	group, _, _ := strings.Cut(fmt.Sprint(o.content["apiVersion"]), "/")
	return fmt.Sprintf("%s %v %v/%v", group, o.content["kind"], o.metadata()["namespace"], o.metadata()["name"])
}

// What a hook is for.
type hookKind int

const (
	noHook    hookKind = iota
	hookOnce           // for an installation or an upgrade
	hookNever          // for tests, deletions, rollbacks
)

// hook tells when Helm would create the object.
func (o object) hook() (hookKind, string) {
	annotations, _ := o.metadata()["annotations"].(map[string]any)
	when, _ := annotations[hookAnnotation].(string)
	if when == "" {
		return noHook, ""
	}
	for event := range strings.SplitSeq(when, ",") {
		switch strings.ToLower(strings.TrimSpace(event)) {
		case "pre-install", "post-install", "pre-upgrade", "post-upgrade":
			return hookOnce, when
		case "crd-install": // Helm 2's word for a definition, which comes first anyway
			return noHook, ""
		}
	}
	return hookNever, when
}

// clusterWide tells kinds that have no namespace. Of one that neither Kubernetes nor
// the chart defines nobody knows here; the server drops a namespace that does not belong.
func (o object) clusterWide(all []object) bool {
	version, _ := o.content["apiVersion"].(string)
	kind, _ := o.content["kind"].(string)
	group, _, found := strings.Cut(version, "/")
	if !found {
		group = ""
	}
	switch group {
	case "":
		return slices.Contains([]string{"Namespace", "Node", "PersistentVolume"}, kind)
	case "rbac.authorization.k8s.io":
		return strings.HasPrefix(kind, "Cluster")
	case "apiextensions.k8s.io", "apiregistration.k8s.io", "admissionregistration.k8s.io", "scheduling.k8s.io",
		"node.k8s.io", "flowcontrol.apiserver.k8s.io", "certificates.k8s.io":
		return true
	case "storage.k8s.io":
		return kind != "CSIStorageCapacity"
	case "networking.k8s.io":
		return slices.Contains([]string{"IngressClass", "IPAddress", "ServiceCIDR"}, kind)
	case "resource.k8s.io":
		return slices.Contains([]string{"DeviceClass", "ResourceSlice"}, kind)
	}
	for _, d := range all {
		spec, _ := d.content["spec"].(map[string]any)
		names, _ := spec["names"].(map[string]any)
		if d.content["kind"] == "CustomResourceDefinition" && spec["group"] == group && names["kind"] == kind {
			return spec["scope"] == "Cluster"
		}
	}
	return false
}
