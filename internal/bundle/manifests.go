package bundle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// nameOf makes a bundle's name of its file's: site-7.bundle.tar is site-7.
func nameOf(file string) string {
	name := strings.ToLower(filepath.Base(file))
	name = strings.TrimSuffix(name, ".tar")
	return strings.TrimSuffix(name, ".bundle")
}

// containerFields are the fields of a pod's spec that hold containers.
var containerFields = []string{"containers", "initContainers", "ephemeralContainers"}

// manifestContent is what a bundle has to know of a manifest.
type manifestContent struct {
	images     []string // that containers name, sorted
	namespaces []string // that it makes
}

// contentOf reads a manifest. A document that is no Kubernetes object is an error.
func contentOf(data []byte) (manifestContent, error) {
	var c manifestContent
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc map[string]any
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			slices.Sort(c.images)
			c.images = slices.Compact(c.images)
			return c, nil
		}
		if err != nil {
			return c, err
		}
		if doc == nil {
			continue // only comments
		}
		for _, field := range []string{"apiVersion", "kind"} {
			if s, ok := doc[field].(string); !ok || s == "" {
				return c, fmt.Errorf("an object in it has no %s", field)
			}
		}
		c.images = append(c.images, imagesIn(doc)...)
		if meta, ok := doc["metadata"].(map[string]any); ok && doc["kind"] == "Namespace" {
			if name, ok := meta["name"].(string); ok {
				c.namespaces = append(c.namespaces, name)
			}
		}
	}
}

func imagesIn(value any) []string {
	var images []string
	switch value := value.(type) {
	case map[string]any:
		for key, v := range value {
			if list, ok := v.([]any); ok && slices.Contains(containerFields, key) {
				images = append(images, imagesOfContainers(list)...)
			}
			images = append(images, imagesIn(v)...)
		}
	case []any:
		for _, v := range value {
			images = append(images, imagesIn(v)...)
		}
	}
	return images
}

func imagesOfContainers(list []any) []string {
	var images []string
	for _, item := range list {
		container, _ := item.(map[string]any)
		if image, ok := container["image"].(string); ok && image != "" {
			images = append(images, image)
		}
	}
	return images
}
