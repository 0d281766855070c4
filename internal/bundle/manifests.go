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

// imagesOf returns the images that containers in the documents of a manifest name,
// sorted. A document that is no Kubernetes object is an error.
func imagesOf(data []byte) ([]string, error) {
	var images []string
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc map[string]any
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			slices.Sort(images)
			return slices.Compact(images), nil
		}
		if err != nil {
			return nil, err
		}
		if doc == nil {
			continue // only comments
		}
		for _, field := range []string{"apiVersion", "kind"} {
			if s, ok := doc[field].(string); !ok || s == "" {
				return nil, fmt.Errorf("an object in it has no %s", field)
			}
		}
		images = append(images, imagesIn(doc)...)
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
