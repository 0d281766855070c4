package agent

import (
	"github.com/limpetio/limpet/agent/loadbalancer"
	"github.com/limpetio/limpet/agent/upgrades"
	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/version"
)

// upgrades does what the server asks of this node. It hears of that from the
// watch that the network has; without limpet's network it has one of its own.
func (a *agent) upgrades() component.Component {
	log := a.log.With("component", upgrades.Name)
	return upgrades.New(upgrades.Options{
		NodeName: a.cfg.NodeName, Version: version.Version,
		RestConfig: a.kubeletConfig, Online: a.balancer.Reached(),
		Node: a.ownNode, Watch: a.settings.FlannelBackend == config.FlannelNone,
		Machine: upgrades.Limpet{
			DataDir: a.cfg.DataDir, PublicKey: version.PublicKey, Server: "https://" + loadbalancer.DefaultListen, Logger: log,
		},
		Logger: log,
	})
}
