package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/internal/config"
)

// RegistrationName comes before the node's network, and on a server before the
// controller-manager.
const RegistrationName = "node-registration"

// Registration is the component that creates the Node object before its kubelet
// runs. With the Node there, and its pod range assigned, the network is up when
// the kubelet looks for it the first time; otherwise the first pod waits for
// the controller-manager and for the kubelet's next look.
type Registration struct {
	Config config.Node
	// RestConfig is who creates the Node: the kubelet, or a server for itself.
	RestConfig func() (*rest.Config, error)
	// Roles are labels that a kubelet may not give itself.
	Roles map[string]string
	// FirstPodCIDRs is what the first node of a cluster takes as its range:
	// nobody else can have it, and the controller-manager, which starts later,
	// sees it as taken. Empty: the controller-manager assigns one.
	FirstPodCIDRs []string
}

// Name implements component.Component.
func (r *Registration) Name() string { return RegistrationName }

// Run is done when the Node is there, with the node's addresses.
func (r *Registration) Run(ctx context.Context, ready func()) error {
	restConfig, err := r.RestConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	nodes := client.CoreV1().Nodes()
	existing, err := nodes.Get(ctx, r.Config.NodeName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		err = r.create(ctx, nodes)
	case err != nil:
		err = fmt.Errorf("get node %s: %w", r.Config.NodeName, err)
	default:
		err = r.adopt(ctx, nodes, existing)
	}
	if err != nil {
		return err
	}
	ready()
	return nil
}

func (r *Registration) create(ctx context.Context, nodes typedcorev1.NodeInterface) error {
	node := r.node()
	if len(r.FirstPodCIDRs) > 0 {
		list, err := nodes.List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return fmt.Errorf("list nodes: %w", err)
		}
		if len(list.Items) == 0 {
			node.Spec.PodCIDR, node.Spec.PodCIDRs = r.FirstPodCIDRs[0], r.FirstPodCIDRs
		}
	}
	if _, err := nodes.Create(ctx, node, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create node %s: %w", node.Name, err)
	}
	return nil
}

// adopt gives a Node that is there already the roles that it lacks and, if the
// machine's addresses have changed, the present ones: kube-proxy takes them
// from the Node when it starts, and ends the process when the kubelet corrects
// them later.
func (r *Registration) adopt(ctx context.Context, nodes typedcorev1.NodeInterface, node *corev1.Node) error {
	if patch := missingLabels(node, r.Roles); patch != nil {
		labelled, err := nodes.Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("label node %s: %w", node.Name, err)
		}
		node = labelled
	}
	if r.hasAddresses(node) {
		return nil
	}
	node = node.DeepCopy()
	node.Status.Addresses = r.addresses()
	if _, err := nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("correct the addresses of node %s: %w", node.Name, err)
	}
	return nil
}

// node is the Node as the kubelet would register it, with the roles.
func (r *Registration) node() *corev1.Node {
	labels := map[string]string{
		corev1.LabelHostname: r.Config.NodeName,
		corev1.LabelOSStable: runtime.GOOS, corev1.LabelArchStable: runtime.GOARCH,
		"beta.kubernetes.io/os": runtime.GOOS, "beta.kubernetes.io/arch": runtime.GOARCH,
	}
	for k, v := range r.Roles {
		labels[k] = v
	}
	for _, label := range r.Config.NodeLabels {
		k, v, _ := strings.Cut(label, "=")
		labels[k] = v
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.Config.NodeName, Labels: labels}}
	node.Spec.Taints = Taints(r.Config)
	// What the kubelet will report first: kube-proxy does not begin before the
	// node has an address, and looks for it only once a second.
	now := metav1.Now()
	node.Status = corev1.NodeStatus{
		Addresses: r.addresses(),
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionFalse, LastHeartbeatTime: now, LastTransitionTime: now,
			Reason: "KubeletNotReady", Message: "the kubelet is starting",
		}},
	}
	return node
}

func (r *Registration) addresses() []corev1.NodeAddress {
	var out []corev1.NodeAddress
	for _, addr := range addrStrings(r.Config.NodeIP) {
		out = append(out, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr})
	}
	for _, addr := range addrStrings(r.Config.NodeExternalIP) {
		out = append(out, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: addr})
	}
	return append(out, corev1.NodeAddress{Type: corev1.NodeHostName, Address: r.Config.NodeName})
}

// hasAddresses tells whether the Node needs no correction. External addresses
// that limpet was not given are another's (a cloud's controller), or the
// kubelet takes them away.
func (r *Registration) hasAddresses(node *corev1.Node) bool {
	external := len(r.Config.NodeExternalIP) == 0 ||
		slices.Equal(addressesOf(node, corev1.NodeExternalIP), addrStrings(r.Config.NodeExternalIP))
	return external && slices.Equal(addressesOf(node, corev1.NodeInternalIP), addrStrings(r.Config.NodeIP))
}

func addressesOf(node *corev1.Node, kind corev1.NodeAddressType) []string {
	var out []string
	for _, a := range node.Status.Addresses {
		if a.Type == kind {
			out = append(out, a.Address)
		}
	}
	return out
}

func addrStrings(addrs []netip.Addr) []string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

// Taints are the taints that the node registers with: KEY[=VALUE]:EFFECT,
// validated with the configuration.
func Taints(c config.Node) []corev1.Taint {
	taints := make([]corev1.Taint, 0, len(c.NodeTaints))
	for _, t := range c.NodeTaints {
		key, effect, _ := strings.Cut(t, ":")
		key, value, _ := strings.Cut(key, "=")
		taints = append(taints, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	return taints
}

// missingLabels returns the merge patch that gives node the labels it lacks; nil if none.
func missingLabels(node *corev1.Node, want map[string]string) []byte {
	missing := map[string]string{}
	for k, v := range want {
		if node.Labels[k] != v {
			missing[k] = v
		}
	}
	if len(missing) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": missing}})
	if err != nil {
		return nil // maps of strings always marshal
	}
	return patch
}
