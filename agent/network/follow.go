package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// settle is how long changes are gathered before they are looked at.
	settle = 50 * time.Millisecond
	// retryAfter is when an entry that the kernel refused is tried again.
	retryAfter = 30 * time.Second
)

// family is one address family of the overlay.
type family struct {
	v4   bool
	mesh mesh
	underlay
	services []routeEntry
}

// follower keeps the kernel's tables in step with the nodes of the cluster.
// Whatever happens, it looks at all nodes and at all of its entries.
type follower struct {
	*Network
	sm       *subnets
	lease    []netip.Prefix // the pod ranges that this node was set up with
	external netlink.LinkAttrs
	families []family
	told     string // the last complaint
}

// run works until ctx is done, or until something has changed that needs the
// network to be set up anew: its error says what.
func (f *follower) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kernel, err := f.watchKernel(ctx)
	if err != nil {
		return err
	}
	for {
		if err := f.checkLinks(); err != nil {
			return err
		}
		if err := f.checkLease(); err != nil {
			return err
		}
		var retry <-chan time.Time
		if err := errors.Join(f.reconcile(), f.republish(ctx)); err != nil {
			retry = time.After(retryAfter)
		}
		select {
		case <-f.sm.changed:
		case _, ok := <-kernel:
			if !ok && ctx.Err() == nil {
				return errors.New("the kernel's notifications have ended")
			}
		case <-retry:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(settle):
		case <-ctx.Done():
			return nil
		}
	}
}

// reconcile tells of a complaint when it is another one than the last.
func (f *follower) reconcile() error {
	nodes, err := f.sm.nodes.List(everything)
	if err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	var refused, failed []error
	for _, fam := range f.families {
		peers, bad := readPeers(nodes, f.opts.NodeName, fam.v4, f.opts.Backend)
		refused = append(refused, bad...)
		peers, bad = fam.mesh.accept(peers)
		refused = append(refused, bad...)
		want := fam.want(peers)
		want.routes = append(want.routes, fam.services...)
		failed = append(failed, fam.apply(want, fam.v4))
	}
	problem := errors.Join(append(refused, failed...)...)
	if text := fmt.Sprint(problem); problem != nil && text != f.told {
		f.told = text
		f.opts.Logger.Warn("the network between pods is not complete", "reason", problem)
	} else if problem == nil && f.told != "" {
		f.told = ""
		f.opts.Logger.Info("the network between pods is complete again")
	}
	return errors.Join(failed...)
}

// checkLinks finds out whether the interfaces are still those of the setup.
func (f *follower) checkLinks() error {
	external, err := netlink.LinkByIndex(f.external.Index)
	if err != nil {
		return fmt.Errorf("interface %s has gone: %w", f.external.Name, err)
	}
	if mtu := external.Attrs().MTU; mtu != f.external.MTU {
		return fmt.Errorf("the MTU of interface %s has changed from %d to %d", f.external.Name, f.external.MTU, mtu)
	}
	for _, fam := range f.families {
		if fam.overlay == 0 {
			continue
		}
		overlay, err := netlink.LinkByIndex(fam.overlay)
		if err != nil {
			return fmt.Errorf("the overlay's interface has gone: %w", err)
		}
		if overlay.Attrs().Flags&unix.IFF_UP == 0 {
			return fmt.Errorf("the overlay's interface %s was shut down", overlay.Attrs().Name)
		}
	}
	return nil
}

// checkLease looks at this node's own Node: it may have been made anew, with
// other pod ranges.
func (f *follower) checkLease() error {
	node, err := f.sm.nodes.Get(f.opts.NodeName)
	if err != nil {
		return nil //nolint:nilerr // it was removed; what is set up stays until it is back
	}
	var ranges []netip.Prefix
	for _, fam := range f.families {
		if subnet, err := podSubnet(node, fam.v4); err == nil {
			ranges = append(ranges, subnet)
		}
	}
	if len(ranges) > 0 && !slices.Equal(ranges, f.lease) {
		return fmt.Errorf("the pod range of this node has changed from %v to %v", f.lease, ranges)
	}
	return nil
}

// republish puts back what somebody has taken from this node's Node.
func (f *follower) republish(ctx context.Context) error {
	node, err := f.sm.nodes.Get(f.opts.NodeName)
	if err != nil {
		return nil //nolint:nilerr // see checkLease
	}
	if err = f.sm.republish(ctx, node); err != nil && ctx.Err() == nil {
		f.opts.Logger.Warn("other nodes are not told how this one is reached; it is tried again", "error", err)
	}
	return err
}

// watchKernel returns a channel that gets a token when an interface of the
// overlay, or a route of ours, is another one. It is closed when the kernel
// stops telling.
func (f *follower) watchKernel(ctx context.Context) (<-chan struct{}, error) {
	links, routes := make(chan netlink.LinkUpdate), make(chan netlink.RouteUpdate)
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	if err := netlink.RouteSubscribe(routes, ctx.Done()); err != nil {
		return nil, fmt.Errorf("watch routes: %w", err)
	}
	indexes := map[int]bool{f.external.Index: true}
	for _, fam := range f.families {
		indexes[fam.overlay] = true
	}
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		for {
			relevant := false
			select {
			case u, ok := <-links:
				if !ok {
					return
				}
				relevant = indexes[int(u.Index)]
			case u, ok := <-routes:
				if !ok {
					return
				}
				relevant = u.Type == unix.RTM_DELROUTE && u.Protocol == routeProtocol
			}
			if relevant {
				select {
				case out <- struct{}{}:
				default:
				}
			}
		}
	}()
	return out, nil
}
