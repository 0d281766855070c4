package server

import (
	"fmt"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/server/egressselector"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/limpetio/limpet/internal/status"
	"github.com/limpetio/limpet/server/tunnel"
)

// useTunnels makes the apiserver dial through hub whatever is in the cluster:
// kubelets, pods, Services, webhooks and aggregated APIs. Upstream's way to say
// so is a file that names a proxy, which would be a socket between two parts of
// one process; the fields that the file ends up in are exported, and nothing
// has been dialed between NewConfig and here.
func useTunnels(cfg *app.Config, hub *tunnel.Hub) error {
	control := &cfg.KubeAPIs.ControlPlane
	if err := hub.Watch(control.VersionedInformers.Core().V1().Nodes()); err != nil {
		return err
	}
	if control.Generic.EgressSelector != nil {
		return nil // the user's own --egress-selector-config-file
	}
	if control.ProxyTransport == nil {
		return fmt.Errorf("lead connections through tunnels: the apiserver has no transport for them")
	}
	control.ProxyTransport.DialContext = hub.DialContext
	cfg.KubeAPIs.KubeletClientConfig.Lookup = func(egressselector.NetworkContext) (utilnet.DialFunc, error) {
		return hub.DialContext, nil
	}
	return nil
}

// tunnels is the hub's part of the status.
func tunnels(hub *tunnel.Hub) []status.Tunnel {
	var list []status.Tunnel
	for _, s := range hub.Sessions() {
		list = append(list, status.Tunnel{Peer: s.Node, Remote: s.Remote, Connected: true, Since: s.Since, Connections: s.Connections})
	}
	return list
}
