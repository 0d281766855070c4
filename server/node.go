package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"runtime"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/upstream"
)

// nodeRegistrationName comes before the controller-manager and the node's network.
const nodeRegistrationName = "node-registration"

// serverRole is the role that a server's Node carries. A kubelet may not set it itself
// (NodeRestriction), so that a stolen node cannot attract control-plane work.
const serverRole = "node-role.kubernetes.io/control-plane"

// nodeRegistration creates the server's own Node object before its kubelet
// runs. With the Node there and, on a first start, its pod range already in it,
// the network is up when the kubelet looks for it the first time; otherwise the
// first pod waits for the controller-manager and for the kubelet's next look.
type nodeRegistration struct {
	config   config.Server
	taints   []corev1.Taint
	loopback func() *rest.Config
}

func (r *nodeRegistration) Name() string { return nodeRegistrationName }

func (r *nodeRegistration) Run(ctx context.Context, ready func()) error {
	client, err := kubernetes.NewForConfig(r.loopback())
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	nodes := client.CoreV1().Nodes()
	existing, err := nodes.Get(ctx, r.config.NodeName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		list, err := nodes.List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return fmt.Errorf("list nodes: %w", err)
		}
		node := r.node(len(list.Items) == 0)
		if _, err := nodes.Create(ctx, node, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create node %s: %w", node.Name, err)
		}
	case err != nil:
		return fmt.Errorf("get node %s: %w", r.config.NodeName, err)
	default:
		patch := missingLabels(existing, roleLabels())
		if patch == nil {
			break
		}
		if _, err := nodes.Patch(ctx, existing.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("label node %s: %w", existing.Name, err)
		}
	}
	ready()
	return nil
}

// node is the Node as the kubelet would register it, with the server's roles.
// The first node of a cluster takes the first pod range: nobody else can have
// it, and the controller-manager, which starts later, sees it as taken.
func (r *nodeRegistration) node(first bool) *corev1.Node {
	labels := roleLabels()
	labels[corev1.LabelHostname] = r.config.NodeName
	labels[corev1.LabelOSStable], labels[corev1.LabelArchStable] = runtime.GOOS, runtime.GOARCH
	labels["beta.kubernetes.io/os"], labels["beta.kubernetes.io/arch"] = runtime.GOOS, runtime.GOARCH
	for _, label := range r.config.NodeLabels {
		k, v, _ := strings.Cut(label, "=")
		labels[k] = v
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.config.NodeName, Labels: labels}}
	node.Spec.Taints = r.taints
	node.Status = r.status()
	if first && !upstream.Names(r.config.KubeControllerManagerArgs, "node-cidr-mask-size*", "allocate-node-cidrs", "cluster-cidr", "cidr-allocator-type") {
		node.Spec.PodCIDRs = firstPodCIDRs(r.config.ClusterCIDR)
		if len(node.Spec.PodCIDRs) > 0 {
			node.Spec.PodCIDR = node.Spec.PodCIDRs[0]
		}
	}
	return node
}

// status is what the kubelet will report first: kube-proxy does not begin
// before the node has an address, and looks for it only once a second.
func (r *nodeRegistration) status() corev1.NodeStatus {
	now := metav1.Now()
	status := corev1.NodeStatus{Conditions: []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionFalse, LastHeartbeatTime: now, LastTransitionTime: now,
		Reason: "KubeletNotReady", Message: "the kubelet is starting",
	}}}
	for _, addr := range r.config.NodeIP {
		status.Addresses = append(status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	status.Addresses = append(status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: r.config.NodeName})
	return status
}

// firstPodCIDRs returns the first node's range of each cluster range: a /24 or
// a /64, the controller-manager's default sizes.
func firstPodCIDRs(clusterCIDR []netip.Prefix) []string {
	var cidrs []string
	for _, p := range clusterCIDR {
		bits := 24
		if p.Addr().Is6() {
			bits = 64
		}
		if p.Bits() > bits {
			return nil // the controller-manager will say what is wrong
		}
		cidrs = append(cidrs, netip.PrefixFrom(p.Masked().Addr(), bits).String())
	}
	return cidrs
}

func roleLabels() map[string]string { return map[string]string{serverRole: "true"} }

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
