package deploy

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// waitEstablished returns when the apiserver serves the kind that definition
// defines. It watches from the state that definition shows.
func (c *cluster) waitEstablished(ctx context.Context, mapping *meta.RESTMapping, definition *unstructured.Unstructured) error {
	if done, err := isEstablished(definition); done || err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, establishTimeout)
	defer cancel()
	events, err := c.client.Resource(mapping.Resource).Watch(ctx, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector(metav1.ObjectNameField, definition.GetName()).String(),
		ResourceVersion: definition.GetResourceVersion(),
	})
	if err != nil {
		return fmt.Errorf("wait until the new kind is served: %w", err)
	}
	defer events.Stop()
	for event := range events.ResultChan() {
		obj, ok := event.Object.(*unstructured.Unstructured)
		if !ok || event.Type == watch.Error || event.Type == watch.Deleted {
			return errors.New("wait until the new kind is served: it was deleted, or the watch broke")
		}
		if done, err := isEstablished(obj); done || err != nil {
			return err
		}
	}
	return fmt.Errorf("the new kind is not served after %s", establishTimeout)
}

// isEstablished reads the conditions of a definition. Names that are taken by
// another definition are an error, because waiting cannot help.
func isEstablished(definition *unstructured.Unstructured) (bool, error) {
	conditions, _, _ := unstructured.NestedSlice(definition.Object, "status", "conditions")
	established := false
	for _, c := range conditions {
		condition, ok := c.(map[string]any)
		if !ok {
			continue
		}
		switch {
		case condition["type"] == "Established" && condition["status"] == "True":
			established = true
		case condition["type"] == "NamesAccepted" && condition["status"] == "False":
			return false, fmt.Errorf("the new kind is not served: %v", condition["message"])
		}
	}
	return established, nil
}
