package upgrades

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/limpetio/limpet/internal/nodeupgrade"
)

const (
	requestAnnotation = nodeupgrade.RequestAnnotation
	reportAnnotation  = nodeupgrade.ReportAnnotation
	// controlPlane is on servers' Nodes; no kubelet may set it (NodeRestriction).
	controlPlane = "node-role.kubernetes.io/control-plane"
)

type informer struct {
	store cache.Store
	ctl   cache.Controller
}

type watched struct{ plans, nodes informer }

func (w watched) planList() ([]*Plan, error) {
	var out []*Plan
	for _, obj := range w.plans.store.List() {
		u, ok := obj.(*unstructured.Unstructured)
		if !ok || u.GetDeletionTimestamp() != nil {
			continue
		}
		p, err := parsePlan(u)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func (w watched) nodeList() []*node {
	var out []*node
	for _, obj := range w.nodes.store.List() {
		if n, ok := obj.(*corev1.Node); ok {
			out = append(out, readNode(n))
		}
	}
	return out
}

// readNode takes what matters of a Node. An annotation that cannot be read counts
// as one that says nothing.
func readNode(n *corev1.Node) *node {
	out := &node{
		name: n.Name, uid: string(n.UID), arch: n.Status.NodeInfo.Architecture, labels: n.Labels,
		unschedulable: n.Spec.Unschedulable, cordonedBy: n.Annotations[cordonAnnotation],
	}
	_, out.server = n.Labels[controlPlane]
	for _, c := range n.Status.Conditions {
		out.ready = out.ready || c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}
	text, asked := n.Annotations[requestAnnotation]
	if out.asked = asked; asked {
		out.request, _ = nodeupgrade.ParseRequest(text, n.Name)
	}
	out.report, _ = nodeupgrade.ParseReport(n.Annotations[reportAnnotation])
	return out
}

// slimNode keeps of a Node what readNode reads: a Node with its images is 10 KiB.
func slimNode(obj any) (any, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	slim := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Labels: n.Labels},
		Spec:       corev1.NodeSpec{Unschedulable: n.Spec.Unschedulable},
		Status:     corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{Architecture: n.Status.NodeInfo.Architecture}},
	}
	for _, name := range []string{requestAnnotation, reportAnnotation, cordonAnnotation} {
		if value, there := n.Annotations[name]; there {
			metav1.SetMetaDataAnnotation(&slim.ObjectMeta, name, value)
		}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			slim.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	return slim, nil
}

func (c *Controller) watch(client kubernetes.Interface, plans dynamic.ResourceInterface) watched {
	nodes := client.CoreV1().Nodes()
	return watched{
		plans: c.informer(&unstructured.Unstructured{}, withoutManagedFields, &cache.ListWatch{
			ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return plans.List(ctx, o) },
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return plans.Watch(ctx, o) },
		}),
		nodes: c.informer(&corev1.Node{}, slimNode, &cache.ListWatch{
			ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return nodes.List(ctx, o) },
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return nodes.Watch(ctx, o) },
		}),
	}
}

func (c *Controller) informer(obj runtime.Object, slim cache.TransformFunc, lw cache.ListerWatcher) informer {
	poke := func() {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	store, ctl := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw,
		ObjectType:    obj,
		Transform:     slim,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { poke() },
			UpdateFunc: func(any, any) { poke() },
			DeleteFunc: func(any) { poke() },
		},
	})
	return informer{store: store, ctl: ctl}
}

func withoutManagedFields(obj any) (any, error) {
	if m, ok := obj.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return obj, nil
}

func (r *run) recorder(broadcaster record.EventBroadcaster) record.EventRecorder {
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: r.client.CoreV1().Events(metav1.NamespaceDefault)})
	return broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: Name})
}
