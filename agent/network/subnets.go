package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/limpetio/limpet/agent/upgrades"
)

// subnets is the subnet manager that flannel's backends ask: it gives this node
// its lease, from a watch on nodes that also tells of the others.
//
// flannel brings one of its own, which takes the node's name from the
// environment and polls once a second while starting; on the way to the first
// pod that second counts.
type subnets struct {
	own      kubernetes.Interface // may change this node's own Node
	nodeName string
	config   *subnet.Config
	families families
	public   []netip.Addr // to be published instead of the interface's
	nodes    corelisters.NodeLister
	lease    *lease.LeaseAttrs // as published
	ownNode  func(annotations map[string]string)

	// changed holds a token when a node may have changed since the last look.
	changed chan struct{}
}

var _ subnet.Manager = (*subnets)(nil)

// newSubnets starts the watch and returns when its first list has arrived.
func newSubnets(ctx context.Context, reader, own kubernetes.Interface, nodeName string, cfg *subnet.Config, public []netip.Addr, ownNode func(map[string]string)) (*subnets, error) {
	s := &subnets{
		own: own, ownNode: ownNode, nodeName: nodeName, config: cfg, public: public,
		families: families{v4: cfg.EnableIPv4, v6: cfg.EnableIPv6},
		changed:  make(chan struct{}, 1),
	}
	factory := informers.NewSharedInformerFactoryWithOptions(reader, 0, informers.WithTransform(s.slim))
	informer := factory.Core().V1().Nodes()
	s.nodes = informer.Lister()
	notify := func() {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			s.seen(obj)
			notify()
		},
		UpdateFunc: func(before, now any) {
			s.seen(now)
			if differ(before, now) { // not for each heartbeat of each node
				notify()
			}
		},
		DeleteFunc: func(any) { notify() },
	}
	if _, err := informer.Informer().AddEventHandler(handler); err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.Informer().HasSynced) {
		return nil, fmt.Errorf("watch nodes: %w", context.Cause(ctx))
	}
	return s, nil
}

// slim is slimNode, and keeps of the own Node what ownNode is told.
func (s *subnets) slim(obj any) (any, error) {
	node, ok := obj.(*corev1.Node)
	if !ok {
		return obj, nil
	}
	slim, err := slimNode(node)
	if kept, ok := slim.(*corev1.Node); ok && s.ownNode != nil && node.Name == s.nodeName {
		maps.Copy(kept.Annotations, upgrades.Annotations(node.Annotations))
	}
	return slim, err
}

// seen passes the own Node on.
func (s *subnets) seen(obj any) {
	if node, ok := obj.(*corev1.Node); ok && s.ownNode != nil && node.Name == s.nodeName {
		s.ownNode(node.Annotations)
	}
}

// slimNode keeps of a node what a lease is made of: the cache holds every node
// of the cluster, and their status is the larger part.
func slimNode(obj any) (any, error) {
	if node, ok := obj.(*corev1.Node); ok {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{
				Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion,
				CreationTimestamp: node.CreationTimestamp, Annotations: flannelAnnotations(node),
			},
			Spec: corev1.NodeSpec{PodCIDR: node.Spec.PodCIDR, PodCIDRs: node.Spec.PodCIDRs},
		}, nil
	}
	return obj, nil
}

func flannelAnnotations(node *corev1.Node) map[string]string {
	kept := map[string]string{}
	for k, v := range node.Annotations {
		if strings.HasPrefix(k, annotationPrefix) {
			kept[k] = v
		}
	}
	return kept
}

// differ compares two slim nodes, but for the version.
func differ(before, now any) bool {
	a, ok := before.(*corev1.Node)
	b, same := now.(*corev1.Node)
	return !ok || !same || a.UID != b.UID || !maps.Equal(a.Annotations, b.Annotations) ||
		a.Spec.PodCIDR != b.Spec.PodCIDR || !slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs)
}

// AcquireLease waits until this node has its pod range, publishes the backend's
// attributes on the node and returns the lease.
func (s *subnets) AcquireLease(ctx context.Context, attrs *lease.LeaseAttrs) (*lease.Lease, error) {
	for _, addr := range s.public {
		if addr.Is4() {
			attrs.PublicIP = ip.FromIP(addr.AsSlice())
		} else {
			attrs.PublicIPv6 = ip.FromIP6(addr.AsSlice())
		}
	}
	s.lease = attrs
	for {
		node, err := s.nodes.Get(s.nodeName)
		if err == nil {
			l, err := ownLease(node, s.families, attrs)
			if err == nil {
				return l, s.republish(ctx, node)
			}
			if !errors.Is(err, errNoSubnet) {
				return nil, err
			}
		}
		select {
		case <-s.changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// republish puts on the Node what it lacks of this node's lease.
func (s *subnets) republish(ctx context.Context, node *corev1.Node) error {
	missing := annotations(node, s.families, s.lease)
	if len(missing) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": missing}})
	if err != nil {
		return err
	}
	_, err = s.own.CoreV1().Nodes().Patch(ctx, s.nodeName, types.MergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("publish lease on node %s: %w", s.nodeName, err)
	}
	return nil
}

// GetStoredMacAddresses lets the vxlan device keep its address over a restart,
// so that the other nodes' tables stay right.
func (s *subnets) GetStoredMacAddresses(context.Context) (v4, v6 string) {
	node, err := s.nodes.Get(s.nodeName)
	if err != nil {
		return "", ""
	}
	v4, _ = vtepMAC(node.Annotations[annotationData]) // none: a new one is made up
	v6, _ = vtepMAC(node.Annotations[annotationDataV6])
	return v4, v6
}

// GetNetworkConfig returns the cluster network.
func (s *subnets) GetNetworkConfig(context.Context) (*subnet.Config, error) { return s.config, nil }

// HandleSubnetFile writes the file that flannel's users and tools look at.
func (s *subnets) HandleSubnetFile(path string, config *subnet.Config, ipMasq bool, sn ip.IP4Net, sn6 ip.IP6Net, mtu int) error {
	return subnet.WriteSubnetFile(path, config, ipMasq, sn, sn6, mtu)
}

// GetStoredPublicIP is asked by flannel's own command only.
func (s *subnets) GetStoredPublicIP(context.Context) (v4, v6 string) { return "", "" }

// CompleteLease has nothing to do: no cloud waits for the network of the node.
func (s *subnets) CompleteLease(context.Context, *lease.Lease, *sync.WaitGroup) error { return nil }

// RenewLease has nothing to do: a lease lives as long as its node.
func (s *subnets) RenewLease(context.Context, *lease.Lease) error { return nil }

// WatchLeases is not asked: the follower looks at the nodes itself.
func (s *subnets) WatchLeases(context.Context, chan []lease.LeaseWatchResult) error {
	return errors.ErrUnsupported
}

// WatchLease is for the etcd subnet manager only.
func (s *subnets) WatchLease(context.Context, ip.IP4Net, ip.IP6Net, chan []lease.LeaseWatchResult) error {
	return errors.ErrUnsupported
}

// Name describes the manager in flannel's log.
func (s *subnets) Name() string { return "limpet subnet manager of node " + s.nodeName }
