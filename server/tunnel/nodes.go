package tunnel

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// node is what routing needs to know of a Node.
type node struct {
	name    string
	created time.Time
	// addrs are the internal and external addresses, ranges the pod ranges.
	addrs  []netip.Addr
	ranges []netip.Prefix
	port   uint16 // of the kubelet
}

const defaultKubeletPort = 10250

func newNode(n *corev1.Node) node {
	out := node{name: n.Name, created: n.CreationTimestamp.Time, port: defaultKubeletPort}
	if p := n.Status.DaemonEndpoints.KubeletEndpoint.Port; p > 0 && p < 1<<16 {
		out.port = uint16(p)
	}
	for _, a := range n.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil {
			out.addrs = append(out.addrs, ip.Unmap())
		}
	}
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	for _, c := range cidrs {
		if p, err := netip.ParsePrefix(c); err == nil {
			out.ranges = append(out.ranges, p.Masked())
		}
	}
	return out
}

// route is where a connection goes.
type route struct {
	node   string // through the tunnel of this node, if it has one; empty: directly
	target string // what the node is asked for
}

// find returns the way to address (HOST:PORT). Only the kubelet of a node and
// addresses in its pod range lead to the node. When several nodes claim the same
// address or range, the one that has existed longest has it: a node that joins
// later, or lies, takes away nobody's traffic.
func find(nodes []node, address string) route {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return route{}
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return route{}
	}
	ip, err := netip.ParseAddr(host)
	byName := err != nil
	ip = ip.Unmap()
	var best *node
	var kubelet bool
	for i := range nodes {
		n := &nodes[i]
		var isKubelet, isPod bool
		if byName {
			isKubelet = n.name == host && uint16(port) == n.port
		} else {
			isKubelet = uint16(port) == n.port && slices.Contains(n.addrs, ip)
			isPod = slices.ContainsFunc(n.ranges, func(r netip.Prefix) bool { return r.Contains(ip) })
		}
		if (isKubelet || isPod) && (best == nil || older(n, best)) {
			best, kubelet = n, isKubelet
		}
	}
	switch {
	case best == nil:
		return route{}
	case kubelet:
		return route{node: best.name, target: net.JoinHostPort(best.name, strconv.Itoa(int(best.port)))}
	}
	return route{node: best.name, target: netip.AddrPortFrom(ip, uint16(port)).String()}
}

func older(a, b *node) bool {
	if !a.created.Equal(b.created) {
		return a.created.Before(b.created)
	}
	return a.name < b.name
}

// nodeTable is the present set of Nodes. It is fed by the API server's own
// informer, which exists anyway.
type nodeTable struct {
	synced  func() bool
	deleted func(name string)

	mu    sync.RWMutex
	nodes map[string]node
}

func (t *nodeTable) put(n *corev1.Node) {
	entry := newNode(n)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nodes[entry.name] = entry
}

func (t *nodeTable) remove(name string) {
	t.mu.Lock()
	delete(t.nodes, name)
	t.mu.Unlock()
	t.deleted(name)
}

func (t *nodeTable) has(name string) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, ok := t.nodes[name]
	return ok
}

func (t *nodeTable) find(address string) route {
	t.mu.RLock()
	list := make([]node, 0, len(t.nodes))
	for _, n := range t.nodes {
		list = append(list, n)
	}
	t.mu.RUnlock()
	return find(list, address)
}

// handler receives the informer's events.
func (t *nodeTable) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if n, ok := obj.(*corev1.Node); ok {
				t.put(n)
			}
		},
		UpdateFunc: func(before, after any) {
			old, ok1 := before.(*corev1.Node)
			n, ok2 := after.(*corev1.Node)
			if ok1 && ok2 && old.UID != n.UID {
				t.remove(n.Name) // deleted and made anew between two events
			}
			if ok2 {
				t.put(n)
			}
		},
		DeleteFunc: func(obj any) {
			if unknown, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = unknown.Obj
			}
			if n, ok := obj.(*corev1.Node); ok {
				t.remove(n.Name)
			}
		},
	}
}
