package network

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"sigs.k8s.io/knftables"
)

// TraceKind is what a Trace is.
type TraceKind string

// The kinds of traces.
const (
	TraceInterface TraceKind = "interface"
	TraceTable     TraceKind = "table"
	TraceRoutes    TraceKind = "routes"
)

// Trace is something that the network has made in the kernel, or something with
// the name that the network would give it.
type Trace struct {
	Kind TraceKind
	// Name is an interface, "FAMILY NAME" of a table, or the routes' mark.
	Name string
}

func (t Trace) String() string { return string(t.Kind) + " " + t.Name }

// Traces lists, in the order in which they are best removed, the interfaces,
// routes and tables that are there with the names that limpet, kube-proxy and
// the CNI plugin portmap give them. tables are all tables of the machine, as
// "FAMILY NAME". Whether another product made them is for the caller to know,
// but for the routes: those have limpet's mark.
func Traces(tables []string) ([]Trace, error) {
	var found []Trace
	var errs []error
	for _, name := range []string{overlayV4, overlayV6, bridge} {
		_, err := netlink.LinkByName(name)
		switch notFound := (netlink.LinkNotFoundError{}); {
		case err == nil:
			found = append(found, Trace{TraceInterface, name})
		case !errors.As(err, &notFound):
			errs = append(errs, fmt.Errorf("look for interface %s: %w", name, err))
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := ownRoutes(family)
		if err != nil {
			errs = append(errs, err)
		}
		if len(routes) > 0 {
			found = append(found, Trace{TraceRoutes, fmt.Sprintf("of protocol %d", routeProtocol)})
			break
		}
	}
	for _, table := range tables {
		switch _, name, _ := strings.Cut(table, " "); {
		case name == "kube-proxy", name == "cni_hostport", strings.HasPrefix(name, tablePrefix):
			found = append(found, Trace{TraceTable, table})
		}
	}
	return found, errors.Join(errs...)
}

// tablePrefix begins the names of limpet's own tables.
const tablePrefix = "limpet-"

// Remove takes one of them away. It is for a machine on which limpet and its
// pods have ended. What is not there any more is no failure. For tables, `nft`
// must be in the PATH.
//
// Kernel settings stay: something else may rely on them by now.
func (t Trace) Remove(ctx context.Context) error {
	switch t.Kind {
	case TraceInterface:
		return removeLink(t.Name)
	case TraceRoutes:
		return errors.Join(removeRoutes(netlink.FAMILY_V4), removeRoutes(netlink.FAMILY_V6))
	case TraceTable:
		family, name, _ := strings.Cut(t.Name, " ")
		return removeTable(ctx, knftables.Family(family), name)
	}
	return fmt.Errorf("remove %s: unknown kind", t)
}

func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if notFound := (netlink.LinkNotFoundError{}); errors.As(err, &notFound) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

func ownRoutes(family int) ([]netlink.Route, error) {
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return routes, nil
}

func removeRoutes(family int) error {
	routes, err := ownRoutes(family)
	if err != nil {
		return err
	}
	var errs []error
	for i := range routes {
		if err := netlink.RouteDel(&routes[i]); err != nil {
			errs = append(errs, fmt.Errorf("remove route to %s: %w", routes[i].Dst, err))
		}
	}
	return errors.Join(errs...)
}

// removeTable adds the table first: deleting one that is not there would be an error.
func removeTable(ctx context.Context, family knftables.Family, table string) error {
	nft, err := knftables.New(family, table)
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	if err := nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("remove table %s %s: %w", family, table, err)
	}
	return nil
}
