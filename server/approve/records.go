package approve

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/limpetio/limpet/internal/noderecord"
)

// keepGone is how long the record of a node that has no Node is kept. It does
// not hold the name any more; but a machine whose Node was deleted by mistake
// registers again with the certificate it has, and then finds its record.
const keepGone = 30 * 24 * time.Hour

const fieldManager = "limpet-approver"

// secret returns the Secret of a node's record; nil if there is none.
func (r *run) secret(ctx context.Context, node string) (*corev1.Secret, error) {
	s, err := r.client.CoreV1().Secrets(noderecord.Namespace).Get(ctx, noderecord.SecretName(node), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get record of node %s: %w", node, err)
	}
	return s, nil
}

// write stores a record in the place of old, which is nil if there was none.
// It fails with errChanged if that is not so any more: of two machines that
// take a name at the same instant, one gets it.
func (r *run) write(ctx context.Context, old *corev1.Secret, record *noderecord.Record) error {
	if record == nil {
		return nil
	}
	secrets := r.client.CoreV1().Secrets(noderecord.Namespace)
	var err error
	switch {
	case old == nil:
		_, err = secrets.Create(ctx, record.Secret(), metav1.CreateOptions{FieldManager: fieldManager})
	case old.Type != noderecord.SecretType: // its type cannot be changed
		return fmt.Errorf("record node %s: the Secret %s/%s is none of limpet's; delete it", record.Node, old.Namespace, old.Name)
	default:
		changed := old.DeepCopy()
		record.WriteTo(changed)
		_, err = secrets.Update(ctx, changed, metav1.UpdateOptions{FieldManager: fieldManager})
	}
	switch {
	case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err), old != nil && apierrors.IsNotFound(err):
		return errChanged
	case err != nil:
		return fmt.Errorf("record node %s: %w", record.Node, err)
	}
	return nil
}

// enqueueRecords looks at all records once: Nodes may have gone while nobody watched.
func (r *run) enqueueRecords(ctx context.Context) error {
	list, err := r.client.CoreV1().Secrets(noderecord.Namespace).List(ctx, metav1.ListOptions{FieldSelector: recordSelector()})
	if err != nil {
		return fmt.Errorf("list records of nodes: %w", err)
	}
	for i := range list.Items {
		if node := noderecord.NodeOf(&list.Items[i]); node != "" {
			r.queue.Add(item{record: true, name: node})
		}
	}
	return nil
}

// keep notes in a node's record whether it has a Node, and removes the record
// when it has had none for long.
func (r *run) keep(ctx context.Context, node string) error {
	old, err := r.secret(ctx, node)
	if err != nil || old == nil || noderecord.NodeOf(old) != node {
		return err
	}
	_, err = r.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("get node %s: %w", node, err)
	}
	next := judgeRecord(noderecord.FromSecret(node, old), err == nil, r.now())
	if next.again > 0 {
		r.queue.AddAfter(item{record: true, name: node}, next.again)
	}
	switch {
	case next.remove:
		if err := r.remove(ctx, old); err != nil {
			return fmt.Errorf("remove record of node %s: %w", node, err)
		}
		r.log.Info("removed the record of a node that is long gone", "node", node)
	case next.change:
		return r.write(ctx, old, &next.record)
	}
	return nil
}

// remove deletes the record unless it has changed.
func (r *run) remove(ctx context.Context, s *corev1.Secret) error {
	err := r.client.CoreV1().Secrets(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion},
	})
	switch {
	case apierrors.IsConflict(err):
		return errChanged
	case apierrors.IsNotFound(err):
		return nil
	}
	return err
}

// recordStep is what is to be done with a record.
type recordStep struct {
	remove, change bool
	record         noderecord.Record // if change
	again          time.Duration     // when to look again; 0: when the Node comes or goes
}

func judgeRecord(record noderecord.Record, hasNode bool, now time.Time) recordStep {
	switch {
	case hasNode && record.Gone.IsZero():
		return recordStep{}
	case hasNode:
		record.Gone = time.Time{}
		return recordStep{change: true, record: record}
	case recent(record.Joined, now): // its Node is about to appear
		return recordStep{again: record.Joined.Add(nodeAppears).Sub(now) + time.Second}
	case now.Before(record.RejoinUntil):
		return recordStep{again: min(record.RejoinUntil.Sub(now), noderecord.MaxRejoin) + time.Second}
	case record.Gone.IsZero(), record.Gone.After(now):
		record.Gone = now
		return recordStep{change: true, record: record, again: keepGone}
	case now.Sub(record.Gone) < keepGone:
		return recordStep{again: keepGone - now.Sub(record.Gone) + time.Second}
	}
	return recordStep{remove: true}
}
