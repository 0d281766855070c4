package deploy

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

const (
	fieldManager   = "limpet"
	requestTimeout = 15 * time.Second
	// establishTimeout is how long a pass waits for a new kind to be served;
	// it takes the apiserver well under a second.
	establishTimeout = 10 * time.Second

	definitionGroup = "apiextensions.k8s.io"
	definitionKind  = "CustomResourceDefinition"
)

// cluster applies and deletes single objects of any kind.
type cluster struct {
	client    dynamic.Interface
	discovery discovery.CachedDiscoveryInterface
	mapper    *restmapper.DeferredDiscoveryRESTMapper
}

func newCluster(cfg *rest.Config) (*cluster, error) {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make client for manifests: %w", err)
	}
	disco, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make discovery client for manifests: %w", err)
	}
	cached := memory.NewMemCacheClient(disco)
	return &cluster{client: client, discovery: cached, mapper: restmapper.NewDeferredDiscoveryRESTMapper(cached)}, nil
}

// forget drops what is known of the server's kinds: to learn new ones, and to
// give the memory back.
func (c *cluster) forget() { c.mapper.Reset() }

// apply makes obj exist as it is written, as an object of the file id.
func (c *cluster) apply(ctx context.Context, id fileID, obj *unstructured.Unstructured) error {
	gvk := obj.GroupVersionKind()
	mapping, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return explainMapping(gvk, err)
	}
	obj = obj.DeepCopy()
	annotations := obj.GetAnnotations()
	if annotations == nil {
		annotations = make(map[string]string, 1)
	}
	annotations[manifestLabel] = id.String()
	obj.SetAnnotations(annotations)
	obj.SetNamespace(namespaceFor(mapping, obj.GetNamespace()))

	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	options := metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
	applied, err := c.resource(mapping, obj.GetNamespace()).Apply(ctx, obj.GetName(), obj, options)
	if err != nil {
		return err
	}
	if applied.GetDeletionTimestamp() != nil {
		return errors.New("the old one is still being deleted")
	}
	if classOf(gvk.GroupKind()) == classDefinition {
		return c.waitEstablished(ctx, mapping, applied)
	}
	return nil
}

// prune deletes the object if it still is one of the file id.
func (c *cluster) prune(ctx context.Context, id fileID, r ref) (deleted bool, err error) {
	mapping, err := c.mapper.RESTMapping(r.GroupKind(), r.Version)
	if meta.IsNoMatchError(err) { // another version of the kind will do
		mapping, err = c.mapper.RESTMapping(r.GroupKind())
	}
	if err != nil {
		if meta.IsNoMatchError(err) && c.isGone(r.GroupVersion()) {
			return false, nil // a kind takes its objects along
		}
		return false, explainMapping(r.GroupVersionKind, err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resource := c.resource(mapping, namespaceFor(mapping, r.Namespace))
	obj, err := resource.Get(ctx, r.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if obj.GetAnnotations()[manifestLabel] != id.String() || obj.GetDeletionTimestamp() != nil {
		return false, nil
	}
	uid, background := obj.GetUID(), metav1.DeletePropagationBackground
	err = resource.Delete(ctx, r.Name, metav1.DeleteOptions{
		PropagationPolicy: &background,
		Preconditions:     &metav1.Preconditions{UID: &uid},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, err
	}
	return true, nil
}

// isGone tells a kind that does not exist any more from one whose aggregated
// API server does not answer at the moment.
func (c *cluster) isGone(gv schema.GroupVersion) bool {
	_, err := c.discovery.ServerResourcesForGroupVersion(gv.String())
	return err == nil || errors.Is(err, memory.ErrCacheNotFound) || apierrors.IsNotFound(err)
}

func (c *cluster) resource(mapping *meta.RESTMapping, namespace string) dynamic.ResourceInterface {
	if namespace == "" {
		return c.client.Resource(mapping.Resource)
	}
	return c.client.Resource(mapping.Resource).Namespace(namespace)
}

// namespaceFor is the namespace that an object really gets.
func namespaceFor(mapping *meta.RESTMapping, given string) string {
	switch {
	case mapping.Scope.Name() == meta.RESTScopeNameRoot:
		return ""
	case given == "":
		return metav1.NamespaceDefault
	}
	return given
}

func explainMapping(gvk schema.GroupVersionKind, err error) error {
	if meta.IsNoMatchError(err) {
		return fmt.Errorf("the cluster does not know kind %s of %s (yet): is its CustomResourceDefinition missing?",
			gvk.Kind, gvk.GroupVersion())
	}
	return fmt.Errorf("look up kind %s of %s: %w", gvk.Kind, gvk.GroupVersion(), err)
}
