package join

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/join"
)

// PublisherName is the component that Publisher makes.
const PublisherName = "join-settings"

// Publisher keeps the ConfigMap with the cluster's settings as config says,
// whoever else changes or deletes it. client is called when it starts.
func Publisher(config join.Config, client func() *rest.Config) component.Component {
	return component.Func(PublisherName, func(ctx context.Context, ready func()) error {
		data, err := config.Marshal()
		if err != nil {
			return err
		}
		clients, err := kubernetes.NewForConfig(client())
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		selector := fields.OneTermEqualSelector("metadata.name", join.Name).String()
		w, err := watch(ctx, clients.CoreV1().RESTClient(), "configmaps", join.Namespace, selector, &corev1.ConfigMap{})
		if err != nil {
			return stopped(ctx, err)
		}
		wanted := map[string]string{join.Key: string(data)}
		for {
			err := publish(ctx, clients, all[*corev1.ConfigMap](w), wanted)
			if err != nil && !overtaken(err) {
				return stopped(ctx, fmt.Errorf("publish the settings for joining: %w", err))
			}
			if err == nil {
				ready()
			}
			select {
			case <-ctx.Done():
				return nil
			case <-w.changed:
			}
		}
	})
}

func publish(ctx context.Context, clients kubernetes.Interface, found []*corev1.ConfigMap, wanted map[string]string) error {
	objects := clients.CoreV1().ConfigMaps(join.Namespace)
	if len(found) == 0 {
		_, err := objects.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: join.Name}, Data: wanted}, metav1.CreateOptions{})
		return err
	}
	if maps.Equal(found[0].Data, wanted) && len(found[0].BinaryData) == 0 {
		return nil
	}
	changed := found[0].DeepCopy()
	changed.Data, changed.BinaryData = wanted, nil
	_, err := objects.Update(ctx, changed, metav1.UpdateOptions{})
	return err
}

// overtaken reports whether a write failed since the object is another one than
// the watch had shown. The watch will show it, and then all is decided again.
func overtaken(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err)
}

// stopped is err, unless it only tells that the component was stopped.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // an orderly stop
	}
	return err
}
