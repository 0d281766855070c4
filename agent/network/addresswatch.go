package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/limpetio/limpet/internal/restart"
)

const (
	// addressSettle is how long an interface has to be quiet before its
	// addresses count: a renewed lease may take the address away for a moment.
	addressSettle = 2 * time.Second
	// addressPatience bounds that for an interface that never is.
	addressPatience = 15 * time.Second
	// restartPause is the least time between two restarts.
	restartPause = 10 * time.Second
)

// AddressWatch is the component that notices when the machine has lost the
// address that the node goes by, and has another one: it fails with a
// *restart.Needed. It is for addresses that were found, not given.
type AddressWatch struct {
	// NodeIP is what NodeAddresses has found, with the same Interface.
	NodeIP    []netip.Addr
	Interface string
	Logger    *slog.Logger
}

// Name implements component.Component.
func (w *AddressWatch) Name() string { return "node-address" }

// Run blocks until ctx is done or the node has another address. As long as
// there is none at all, everything stays as it is.
func (w *AddressWatch) Run(ctx context.Context, ready func()) error {
	begin := time.Now()
	ready()
	lost := false
	for ctx.Err() == nil {
		changes, stop, err := watchAddresses(ctx)
		if err != nil {
			w.Logger.Warn("changes of the machine's addresses are not noticed; it is tried again", "error", err)
			sleep(ctx, time.Minute)
			continue
		}
		for open := true; open; open = awaitQuiet(ctx, changes) {
			all, err := candidates()
			if err != nil {
				w.Logger.Warn("the machine's addresses are not known", "error", err)
				continue
			}
			reason, err := changed(w.NodeIP, all, w.Interface)
			switch {
			case reason != "":
				stop()
				if !sleep(ctx, time.Until(begin.Add(restartPause))) {
					return nil //nolint:nilerr // there was none; it was told to end
				}
				return &restart.Needed{Reason: reason}
			case err != nil && !lost:
				w.Logger.Warn("the node's address has gone; what runs goes on until there is one again", "error", err)
			case err == nil && lost:
				w.Logger.Info("the node has its address again")
			}
			lost = err != nil
		}
		stop()
		sleep(ctx, time.Second) // the subscription has ended: make another one
	}
	return nil
}

// changed says what has happened to the node's addresses: a reason to begin
// anew; an error if one is lost and nothing can take its place; neither if all
// are still there.
func changed(nodeIP []netip.Addr, all []address, iface string) (reason string, err error) {
	var gone []string
	for _, addr := range nodeIP {
		if slices.ContainsFunc(all, func(a address) bool { return a.Addr == addr }) {
			continue
		}
		family := netip.Addr.Is4
		if addr.Is6() {
			family = netip.Addr.Is6
		}
		now, chooseErr := choose(all, family, iface)
		if chooseErr != nil {
			err = errors.Join(err, fmt.Errorf("instead of %s: %w", addr, chooseErr))
			continue
		}
		gone = append(gone, fmt.Sprintf("the node's address was %s and is %s now", addr, now))
	}
	if err != nil {
		return "", err
	}
	return strings.Join(gone, "; "), nil
}

// watchAddresses returns a channel that tells of changes to addresses and
// interfaces, and is closed when the kernel stops telling; stop ends it.
func watchAddresses(ctx context.Context) (<-chan struct{}, context.CancelFunc, error) {
	ctx, cancel := context.WithCancel(ctx)
	addrs, links := make(chan netlink.AddrUpdate), make(chan netlink.LinkUpdate)
	if err := netlink.AddrSubscribe(addrs, ctx.Done()); err != nil {
		cancel()
		return nil, nil, fmt.Errorf("watch addresses: %w", err)
	}
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
		cancel()
		return nil, nil, fmt.Errorf("watch interfaces: %w", err)
	}
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		for addrs != nil && links != nil {
			relevant := true
			select {
			case _, ok := <-addrs:
				if !ok {
					addrs = nil
				}
			case u, ok := <-links:
				if !ok {
					links = nil
				} else {
					relevant = !ours(u.Attrs().Name) // pods come and go
				}
			}
			if relevant {
				select {
				case out <- struct{}{}:
				default:
				}
			}
		}
		cancel()
		drain(addrs)
		drain(links)
	}()
	return out, cancel, nil
}

// drain lets a subscription's goroutine end, which may be about to send.
func drain[T any](ch <-chan T) {
	if ch == nil {
		return
	}
	for range ch { //nolint:revive // until it is closed
	}
}

// awaitQuiet waits for a change and then until nothing changes for a moment.
// It returns false when there will be no more.
func awaitQuiet(ctx context.Context, changes <-chan struct{}) bool {
	select {
	case _, ok := <-changes:
		if !ok {
			return false
		}
	case <-ctx.Done():
		return false
	}
	limit := time.After(addressPatience)
	for {
		select {
		case _, ok := <-changes:
			if !ok {
				return false
			}
		case <-time.After(addressSettle):
			return true
		case <-limit:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// sleep returns false if ctx was done first.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
