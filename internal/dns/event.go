package dns

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maxEventMessage is as much as the API server accepts in an Event's message.
const maxEventMessage = 1024

// event records what became of a configuration, on its ConfigMap, where the
// user who changed it looks. custom selects coredns-custom.
func (s *source) event(ctx context.Context, custom bool, kind, reason, message string) error {
	if s.own == nil {
		return nil
	}
	i := 0
	if custom {
		i = 1
	}
	cm := s.configMap(i)
	if cm == nil {
		return nil
	}
	if len(message) > maxEventMessage {
		message = message[:maxEventMessage-3] + "..."
	}
	now := metav1.NewTime(time.Now())
	_, err := s.own.CoreV1().Events(namespace).Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: cm.Name + ".", Namespace: namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "ConfigMap", Namespace: cm.Namespace, Name: cm.Name,
			UID: cm.UID, ResourceVersion: cm.ResourceVersion,
		},
		Type: kind, Reason: reason, Message: message,
		Source:         corev1.EventSource{Component: "limpet-dns", Host: s.ownName},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil {
		return fmt.Errorf("record Event on ConfigMap %s/%s: %w", cm.Namespace, cm.Name, err)
	}
	return nil
}
