package deploy

import (
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	reasonApplied = "Applied"
	reasonFailed  = "ApplyFailed"
	reasonPruned  = "Pruned"
	reasonKept    = "Kept"

	// maxEventMessage is what the API takes.
	maxEventMessage = 1024
)

// eventWriter is the part of corev1client.EventInterface that a reporter uses.
type eventWriter interface {
	Create(context.Context, *corev1.Event, metav1.CreateOptions) (*corev1.Event, error)
}

// reporter writes Events on the records of files.
type reporter struct {
	events eventWriter
	log    *slog.Logger
}

// report writes one Event, as well as it can. The ConfigMap that it is about
// need not exist: a file that never worked has no record.
func (r *reporter) report(ctx context.Context, rec record, reason, message string) {
	kind := corev1.EventTypeNormal
	if reason == reasonFailed {
		kind = corev1.EventTypeWarning
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	now := metav1.NewTime(time.Now())
	name := recordName(rec.id)
	_, err := r.events.Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: name + ".", Namespace: recordNamespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "ConfigMap", Namespace: recordNamespace, Name: name, UID: rec.uid,
		},
		Type: kind, Reason: reason, Message: clip(rec.id.String()+": "+message, maxEventMessage),
		Source:         corev1.EventSource{Component: componentName},
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
		ReportingController: componentName,
	}, metav1.CreateOptions{FieldManager: fieldManager})
	if err != nil && ctx.Err() == nil {
		r.log.Debug("could not record an Event", "file", rec.id.String(), "reason", reason, "err", err)
	}
}
