package deploy

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// maxObjects is how many objects one file may hold: their names must fit into
// the ConfigMap that records them (1 MiB).
const maxObjects = 4000

// parseObjects reads all objects of a manifest: YAML documents, or one or more
// JSON values; Lists are taken apart. The first thing that is wrong is an error
// that names the document, since half a file must not count as the whole.
func parseObjects(data []byte) ([]*unstructured.Unstructured, error) {
	docs, err := splitDocuments(data)
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	for i, doc := range docs {
		found, err := parseDocument(doc)
		if err != nil {
			if len(docs) > 1 {
				err = fmt.Errorf("document %d: %w", i+1, err)
			}
			return nil, err
		}
		objects = append(objects, found...)
		if len(objects) > maxObjects {
			return nil, fmt.Errorf("more than %d objects in one file: split it", maxObjects)
		}
	}
	return objects, nil
}

// splitDocuments cuts a manifest into its documents, in whichever of the two
// languages each is.
func splitDocuments(data []byte) ([][]byte, error) {
	if docs, ok := splitJSON(data); ok {
		return docs, nil
	}
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	var docs [][]byte
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
}

// splitJSON is false for anything but a sequence of JSON objects.
func splitJSON(data []byte) ([][]byte, bool) {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return nil, false
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	var docs [][]byte
	for {
		var doc json.RawMessage
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs, true
		}
		if err != nil {
			return nil, false
		}
		docs = append(docs, doc)
	}
}

func parseDocument(doc []byte) ([]*unstructured.Unstructured, error) {
	asJSON, err := yaml.YAMLToJSONStrict(doc) // refuses a key that is given twice
	if err != nil {
		return nil, err
	}
	if bytes.Equal(asJSON, []byte("null")) {
		return nil, nil // only comments
	}
	if !bytes.HasPrefix(asJSON, []byte("{")) {
		return nil, errors.New("not a Kubernetes object: apiVersion and kind are missing")
	}
	decoded, _, err := unstructured.UnstructuredJSONScheme.Decode(asJSON, nil, nil)
	if err != nil {
		if runtime.IsMissingKind(err) {
			return nil, errors.New("not a Kubernetes object: kind is missing, or apiVersion is malformed")
		}
		return nil, err
	}
	return flatten(decoded)
}

// flatten returns the object itself or, of a List, its items.
func flatten(decoded runtime.Object) ([]*unstructured.Unstructured, error) {
	switch v := decoded.(type) {
	case *unstructured.UnstructuredList:
		var all []*unstructured.Unstructured
		for i := range v.Items {
			found, err := flattenItem(&v.Items[i])
			if err != nil {
				return nil, fmt.Errorf("item %d of the list: %w", i+1, err)
			}
			all = append(all, found...)
		}
		return all, nil
	case *unstructured.Unstructured:
		if err := check(v); err != nil {
			return nil, err
		}
		return []*unstructured.Unstructured{v}, nil
	}
	return nil, fmt.Errorf("cannot use a %T", decoded)
}

func flattenItem(item *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	if !item.IsList() {
		return flatten(item)
	}
	list, err := item.ToList()
	if err != nil {
		return nil, err
	}
	return flatten(list)
}

// check refuses what could be neither applied nor recorded, and drops what the
// server fills in, so that the output of `kubectl get -o yaml` can be used.
func check(obj *unstructured.Unstructured) error {
	switch {
	case obj.GetAPIVersion() == "":
		return fmt.Errorf("a %s has no apiVersion", obj.GetKind())
	case obj.GetName() == "" && obj.GetGenerateName() != "":
		return fmt.Errorf("a %s has metadata.generateName instead of metadata.name: it would become another object at each start", obj.GetKind())
	case obj.GetName() == "":
		return fmt.Errorf("a %s has no metadata.name", obj.GetKind())
	}
	if _, err := schema.ParseGroupVersion(obj.GetAPIVersion()); err != nil {
		return fmt.Errorf("%s %s: %w", obj.GetKind(), obj.GetName(), err)
	}
	odd := func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }
	if strings.ContainsFunc(obj.GetAPIVersion()+obj.GetKind()+obj.GetNamespace(), odd) || strings.ContainsFunc(obj.GetName(), unicode.IsControl) {
		return fmt.Errorf("%q %q: white space or control characters in apiVersion, kind, namespace or name", obj.GetKind(), obj.GetName())
	}
	for field, value := range map[string]string{"name": obj.GetName(), "namespace": obj.GetNamespace()} {
		if problems := content.IsPathSegmentName(value); len(problems) > 0 {
			return fmt.Errorf("%s %q: metadata.%s %s", obj.GetKind(), obj.GetName(), field, strings.Join(problems, ", "))
		}
	}
	for _, field := range []string{"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink"} {
		unstructured.RemoveNestedField(obj.Object, "metadata", field)
	}
	return nil
}
