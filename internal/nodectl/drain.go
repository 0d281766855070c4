package nodectl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubectl/pkg/drain"
)

// Drain says how to empty a node.
type Drain struct {
	// Timeout is how long it may take; zero: for ever.
	Timeout time.Duration
	// Grace is how long each pod gets to end; negative: as long as the pod says.
	Grace time.Duration
	// Force also ends pods that nobody will start elsewhere, and goes on with a
	// node that cannot be reached.
	Force bool
	// DeleteEmptyDirData also ends pods whose emptyDir volumes are lost by that.
	DeleteEmptyDirData bool
	// DisableEviction deletes pods, whatever their disruption budgets say.
	DisableEviction bool
}

// Drain keeps new pods from a node and moves those that are there elsewhere.
func (c Control) Drain(ctx context.Context, name string, how Drain) error {
	s, err := c.connect()
	if err != nil {
		return err
	}
	node, err := s.node(ctx, name)
	if err != nil {
		return err
	}
	if err := s.drain(ctx, node, how); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "Node %s is drained and cordoned. `limpet kubectl uncordon %[1]s` lets pods come back.\n", name)
	return nil
}

// drain leaves everything as it is if some pod must not be ended.
func (s *session) drain(ctx context.Context, node *corev1.Node, how Drain) error {
	if state(node) == stateUnreachable && !how.Force {
		return fmt.Errorf("node %s cannot be reached: nobody there would end its pods. Kubernetes starts them elsewhere five minutes after it was lost. "+
			"If the machine is gone for good, `limpet node remove %[1]s`; with --force they are marked for deletion", node.Name)
	}
	helper := s.helper(ctx, how)
	if state(node) == stateUnreachable {
		helper.SkipWaitForDeleteTimeoutSeconds = 1 // they will not go while it is away
	}
	pods, err := evictable(helper, node)
	if err != nil {
		return err
	}
	if !node.Spec.Unschedulable {
		if err := drain.RunCordonOrUncordon(helper, node, true); err != nil {
			return fmt.Errorf("cordon node %s: %w", node.Name, s.explain(err))
		}
		fmt.Fprintf(s.out, "Node %s is cordoned: no new pods come to it.\n", node.Name)
		if pods, err = evictable(helper, node); err != nil { // one may have come just before
			return s.staysCordoned(node, err)
		}
	}
	if warnings := pods.Warnings(); warnings != "" {
		fmt.Fprintf(s.out, "Note: %s\n", warnings)
	}
	list := pods.Pods()
	if len(list) == 0 {
		fmt.Fprintf(s.out, "No pods are to be moved.\n")
		return nil
	}
	p := &progress{out: s.out, total: len(list), begun: map[string]bool{}, said: map[string]bool{}}
	helper.ErrOut = p
	helper.OnPodDeletionOrEvictionStarted = func(pod *corev1.Pod, _ bool) { p.started(pod) }
	helper.OnPodDeletionOrEvictionFinished = func(pod *corev1.Pod, _ bool, err error) {
		if err == nil {
			p.finished(pod)
		}
	}
	if err := helper.DeleteOrEvictPods(list); err != nil {
		return s.staysCordoned(node, fmt.Errorf("%d of %d pods are gone, then: %w", p.gone, p.total, s.explain(err)))
	}
	return nil
}

func (s *session) staysCordoned(node *corev1.Node, err error) error {
	return fmt.Errorf("node %s is not drained: %w. It stays cordoned: try again, or take it back with `limpet kubectl uncordon %[1]s`", node.Name, err)
}

func (s *session) helper(ctx context.Context, how Drain) *drain.Helper {
	grace := -1
	if how.Grace >= 0 {
		grace = int(how.Grace.Round(time.Second) / time.Second)
	}
	return &drain.Helper{
		Ctx: ctx, Client: s.client, Out: io.Discard, ErrOut: io.Discard,
		Timeout: how.Timeout, GracePeriodSeconds: grace, Force: how.Force,
		DeleteEmptyDirData: how.DeleteEmptyDirData, DisableEviction: how.DisableEviction,
		IgnoreAllDaemonSets:  true, // they would be started again on the same node
		ChunkSize:            500,
		EvictErrorRetryDelay: 5 * time.Second,
	}
}

// evictable lists the pods to end; an error if there are some that must not be.
func evictable(helper *drain.Helper, node *corev1.Node) (*drain.PodDeleteList, error) {
	list, errs := helper.GetPodsForDeletion(node.Name)
	if len(errs) > 0 {
		return nil, fmt.Errorf("node %s cannot be drained like this: %w", node.Name, errors.Join(errs...))
	}
	return list, nil
}

// progress tells of each pod once when it is asked to end and once when it has
// ended. It is also where kubectl's package writes what holds an eviction up,
// every few seconds: that is told once, too.
type progress struct {
	out   io.Writer
	total int

	mu          sync.Mutex
	begun, said map[string]bool
	gone        int
}

func (p *progress) started(pod *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := pod.Namespace + "/" + pod.Name
	if p.begun[name] {
		return
	}
	p.begun[name] = true
	fmt.Fprintf(p.out, "Ending %s\n", name)
}

func (p *progress) finished(pod *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone++
	fmt.Fprintf(p.out, "%d of %d: %s/%s has ended\n", p.gone, p.total, pod.Namespace, pod.Name)
}

// Write implements io.Writer.
func (p *progress) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	line := strings.TrimSpace(string(text))
	if line != "" && !p.said[line] {
		p.said[line] = true
		fmt.Fprintln(p.out, line)
	}
	return len(text), nil
}
