package nodectl

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/limpetio/limpet/internal/noderecord"
)

// Remove takes a node out of the cluster: it is drained, unless how.Force or it
// cannot be reached, and its Node and its identity record are deleted.
func (c Control) Remove(ctx context.Context, name string, how Drain) error {
	s, err := c.connect()
	if err != nil {
		return err
	}
	node, err := s.node(ctx, name)
	if unknown := (*errUnknown)(nil); errors.As(err, &unknown) {
		return s.removeRecordOnly(ctx, unknown)
	}
	if err != nil {
		return err
	}
	if isServer(node) {
		return fmt.Errorf("node %s is the server of this cluster and cannot be removed from it. To run no pods on it, start it with --disable-agent", name)
	}
	switch {
	case state(node) == stateUnreachable:
		fmt.Fprintf(s.out, "Node %s cannot be reached: its pods are given up without being ended there.\n", name)
	case how.Force:
		fmt.Fprintf(s.out, "Node %s is not drained (--force): its pods are given up.\n", name)
	default:
		if err := s.drain(ctx, node, how); err != nil {
			return err
		}
	}
	err = s.client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &node.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete node %s: %w", name, s.explain(err))
	}
	if _, err := s.deleteRecord(ctx, name); err != nil {
		return err
	}
	fmt.Fprintf(s.out, `Node %s is removed, and its name is free.
On the machine itself: stop limpet agent and keep it from starting again. It still has a certificate, and if it
is started again it comes back. To make it another cluster's, delete its data directory first.
`, name)
	return nil
}

// removeRecordOnly frees the name of a node whose Node is gone already.
func (s *session) removeRecordOnly(ctx context.Context, unknown *errUnknown) error {
	deleted, err := s.deleteRecord(ctx, unknown.name)
	if err != nil {
		return err
	}
	if !deleted {
		return unknown
	}
	fmt.Fprintf(s.out, "There was no Node %s any more, only its identity record, which is deleted: the name is free.\n", unknown.name)
	return nil
}

func (s *session) deleteRecord(ctx context.Context, name string) (bool, error) {
	secret, err := s.record(ctx, name)
	if err != nil || secret == nil || secret.Type != noderecord.SecretType {
		return false, err
	}
	err = s.client.CoreV1().Secrets(secret.Namespace).Delete(ctx, secret.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("delete the identity record of node %s: %w", name, s.explain(err))
	}
	return err == nil, nil
}

// Rejoin lets another machine that has a valid join token take the name of a
// node, once and within ttl.
func (c Control) Rejoin(ctx context.Context, name string, ttl time.Duration) error {
	s, err := c.connect()
	if err != nil {
		return err
	}
	node, err := s.node(ctx, name)
	unknown := (*errUnknown)(nil)
	if err != nil && !errors.As(err, &unknown) {
		return err
	}
	if node != nil && isServer(node) {
		return fmt.Errorf("node %s is the server of this cluster: no other machine can be it", name)
	}
	until := time.Now().Add(ttl).Truncate(time.Second)
	err = retry.OnError(retry.DefaultRetry, changedMeanwhile, func() error { return s.allow(ctx, name, unknown, until) })
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "Until %s the next machine that joins as %s with a valid token gets the name, once.\n", clock(until), name)
	if node != nil && state(node) == stateReady {
		fmt.Fprintf(s.out, "Note: node %s is Ready now. If its old machine is to go on running, give the new one another name instead (--node-name).\n", name)
	}
	fmt.Fprintf(s.out, "A machine that was refused has ended: start limpet agent there again.\n")
	return nil
}

func changedMeanwhile(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
}

// allow writes the permission into the record; unknown is not nil if there is no Node.
func (s *session) allow(ctx context.Context, name string, unknown *errUnknown, until time.Time) error {
	secret, err := s.record(ctx, name)
	if err != nil {
		return err
	}
	secrets := s.client.CoreV1().Secrets(noderecord.Namespace)
	switch {
	case secret == nil && unknown != nil:
		return fmt.Errorf("%w. A machine that joins under a name that no node has needs no permission", unknown)
	case secret == nil:
		_, err = secrets.Create(ctx, noderecord.Record{Node: name, RejoinUntil: until}.Secret(), metav1.CreateOptions{})
	default:
		_, err = secrets.Update(ctx, allowed(name, secret, until), metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write the identity record of node %s: %w", name, s.explain(err))
	}
	return nil
}

// allowed is the record with the permission. What is damaged is written anew.
func allowed(name string, secret *corev1.Secret, until time.Time) *corev1.Secret {
	r := noderecord.FromSecret(name, secret)
	r.RejoinUntil = until
	secret = secret.DeepCopy()
	r.WriteTo(secret)
	return secret
}
