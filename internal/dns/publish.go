package dns

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/limpetio/limpet/internal/component"
)

// fieldManager is the name under which limpet writes objects.
const fieldManager = "limpet"

const (
	// answerPatience is how long the annotation of an earlier run stays before the server answers.
	answerPatience = 10 * time.Second
	// publishRetryMax bounds the delay between attempts to write the annotation.
	publishRetryMax = 15 * time.Second
)

// publishLoop keeps the annotation of the own Node right: it names the endpoint
// while the server answers names of the cluster, and is taken away when the server hands over.
func (s *Server) publishLoop(ctx context.Context) {
	if !cache.WaitFor(ctx, "", s.source.nodes.ctl.HasSyncedChecker()) {
		return
	}
	backoff, patience := retryMin, time.NewTimer(answerPatience)
	defer patience.Stop()
	impatient := false
	for {
		var retry <-chan time.Time
		if err := s.publish(ctx, impatient); err != nil {
			retry = time.After(backoff)
			backoff = min(2*backoff, publishRetryMax)
		} else {
			backoff = retryMin
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wakeEP:
		case <-retry:
		case <-patience.C:
			impatient = true
		}
	}
}

// publish makes the annotation what it shall be now. Until the server has
// answered once, what an earlier run has written stays, for a while: it is
// right again in a moment. Where no other node serves there is nothing better
// to lead to, so that the first node of a cluster does not wait for its first answer.
func (s *Server) publish(ctx context.Context, impatient bool) error {
	s.mu.Lock()
	want, listens := "", s.endpoint.String()
	early := listens != "" && !s.source.anotherServes(s.opts.NodeName)
	if (s.answers || early) && !s.handedOver {
		want = listens
	}
	settled := s.answers || s.handedOver || early || impatient
	s.mu.Unlock()
	if !settled {
		return nil // awaitReady will wake us
	}
	node := s.source.node(s.opts.NodeName)
	if node == nil {
		return nil // the watch will wake us
	}
	if node.Annotations[Annotation] == want {
		s.noteEndpoint(nil)
		return nil
	}
	err := annotate(ctx, s.source.own, s.opts.NodeName, want)
	s.noteEndpoint(err)
	return err
}

func (s *Server) noteEndpoint(err error) {
	s.mu.Lock()
	old := s.epError
	s.epError = ""
	if err != nil {
		s.epError = err.Error()
	}
	s.mu.Unlock()
	if err != nil && err.Error() != old {
		s.log.Warn("The Service kube-dns does not lead to this DNS server yet", "err", err)
	}
}

// annotate writes the annotation of a Node; an empty value removes it.
func annotate(ctx context.Context, client kubernetes.Interface, node, value string) error {
	var set any
	if value != "" {
		set = value
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{Annotation: set}}})
	if err != nil {
		return err
	}
	if _, err := client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err != nil {
		return fmt.Errorf("annotate Node %s with %s: %w", node, Annotation, err)
	}
	return nil
}

// Withdrawal is a component for a node that runs no DNS server: it removes the annotation
// that an earlier run with one has left. cfg is the kubelet's identity.
func Withdrawal(cfg *rest.Config, node string) component.Component {
	return component.Func("dns-withdrawal", func(ctx context.Context, ready func()) error {
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return fmt.Errorf("make DNS client: %w", err)
		}
		ready()
		n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return fmt.Errorf("get Node %s: %w", node, err)
		}
		if _, there := n.Annotations[Annotation]; !there {
			return nil
		}
		return annotate(ctx, client, node, "")
	})
}

const (
	// handOverWrite bounds the writing of the annotation while stopping.
	handOverWrite = 2 * time.Second
	// handOverRetry is the pause between two attempts.
	handOverRetry = 100 * time.Millisecond
	// handOverWait is how long the other components of the cluster may take to
	// follow: the EndpointSlice is rewritten at once, kube-proxy collects changes for up to a second.
	handOverWait = 2 * time.Second
)

// HandOver is a component that does nothing until it is stopped. Then, if
// another node runs a DNS server, it leads this node's pods there, and returns when
// they can be thought to be: a restart or an upgrade of limpet does not leave
// them without DNS. It must be stopped before this server and kube-proxy.
func (s *Server) HandOver() component.Component {
	return component.Func("dns-handover", func(ctx context.Context, ready func()) error {
		ready()
		<-ctx.Done()
		s.mu.Lock()
		src, answers := s.source, s.answers
		s.mu.Unlock()
		if src == nil || src.own == nil || !answers {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handOverWrite)
		defer cancel()
		for {
			done, err := s.handOver(ctx, src)
			if err == nil {
				if done {
					time.Sleep(handOverWait)
				}
				return nil
			}
			select {
			case <-ctx.Done():
				s.log.Warn("DNS cannot be handed over to another node while limpet is stopped", "err", err)
				return nil
			case <-time.After(handOverRetry): // a link may be on its way back
			}
		}
	})
}

// handOver removes the annotation if another node serves. It asks the API server which: what has
// been watched may be old if the server or the link was away a moment ago.
func (s *Server) handOver(ctx context.Context, src *source) (bool, error) {
	nodes, err := src.reader.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, fmt.Errorf("list nodes: %w", err)
	}
	if !slices.ContainsFunc(nodes.Items, func(n corev1.Node) bool { return servesBeside(&n, s.opts.NodeName) }) {
		return false, nil
	}
	s.mu.Lock()
	s.handedOver = true // for publishLoop
	s.mu.Unlock()
	return true, annotate(ctx, src.own, s.opts.NodeName, "")
}

// anotherServes tells whether a node other than this one runs a DNS server and
// is heard of, as far as it is known.
func (s *source) anotherServes(name string) bool {
	return slices.ContainsFunc(s.nodes.store.List(), func(obj any) bool {
		node, ok := obj.(*corev1.Node)
		return ok && servesBeside(node, name)
	})
}

func servesBeside(node *corev1.Node, name string) bool {
	return node.Name != name && node.Annotations[Annotation] != "" && !Lost(node)
}

// Lost tells whether nothing is heard of the node. A node that says of itself
// that it is not ready may well serve DNS, so only silence counts.
func Lost(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionUnknown
		}
	}
	return false
}
