package upgrades

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/limpetio/limpet/internal/nodeupgrade"
)

// OwnNode is what is known of this node's Node, from a watch that somebody has
// anyway. Its methods may be called at any time.
type OwnNode struct {
	mu      sync.Mutex
	now     ownState
	changed chan struct{}
}

// ownState are the two annotations; asked: there is a request, even an empty one.
type ownState struct {
	known   bool
	request string
	asked   bool
	report  string
}

// NewOwnNode returns one that knows nothing yet.
func NewOwnNode() *OwnNode { return &OwnNode{changed: make(chan struct{}, 1)} }

// Seen takes the Node's annotations. It is called with every version of the Node.
func (o *OwnNode) Seen(annotations map[string]string) {
	next := ownState{known: true, report: annotations[nodeupgrade.ReportAnnotation]}
	next.request, next.asked = annotations[nodeupgrade.RequestAnnotation]
	o.mu.Lock()
	same := o.now == next
	o.now = next
	o.mu.Unlock()
	if same {
		return // heartbeats
	}
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

func (o *OwnNode) get() ownState {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

// Annotations are those that Seen reads, of which others' caches of Nodes need
// keep no more.
func Annotations(of map[string]string) map[string]string {
	kept := map[string]string{}
	for _, name := range []string{nodeupgrade.RequestAnnotation, nodeupgrade.ReportAnnotation} {
		if value, there := of[name]; there {
			kept[name] = value
		}
	}
	return kept
}

// follow watches the Node for a node on which nobody else does.
func (o *OwnNode) follow(ctx context.Context, client kubernetes.Interface, name string) error {
	informer := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithTweakListOptions(func(l *metav1.ListOptions) {
			l.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}), informers.WithTransform(onlyOurs)).Core().V1().Nodes().Informer()
	seen := func(obj any) {
		if n, ok := obj.(*corev1.Node); ok {
			o.Seen(n.Annotations)
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: seen, UpdateFunc: func(_, obj any) { seen(obj) },
	})
	if err != nil {
		return fmt.Errorf("watch node %s: %w", name, err)
	}
	go informer.RunWithContext(ctx)
	return nil
}

func onlyOurs(obj any) (any, error) {
	n, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion, Annotations: Annotations(n.Annotations),
	}}, nil
}
