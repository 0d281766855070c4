package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/limpetio/limpet/agent/standin"
)

// offline is what lets this node start its pods again while no server is there.
type offline struct {
	server   *standin.Server
	recorder *standin.Recorder
}

// dialStandIn is for the balancer, which is made first.
func (a *agent) dialStandIn(ctx context.Context) (net.Conn, error) { return a.offline.server.Dial(ctx) }

// localCA is what the node's components verify with whom they find at
// 127.0.0.1:6444: the servers' bundle and the API server that stands in for them,
// whose authority is a new one at each start. So it is in memory: a full disk must
// not keep a node from starting.
const localCA = RunDir + "/local-ca.crt"

// prepareOffline comes after the balancer and before anything reads a kubeconfig.
func (a *agent) prepareOffline() error {
	log := a.log.With("component", "stand-in")
	record, err := standin.Open(a.files().Cache(), log)
	if err != nil {
		return err
	}
	rebooted, err := firstSinceBoot()
	if err != nil {
		return err
	}
	a.offline.server, err = standin.New(standin.Options{
		NodeName: a.cfg.NodeName, Rebooted: rebooted, ClientCA: []byte(a.settings.ClientCA),
		Journal: record, Reached: a.balancer.Reached(), Logger: log,
	})
	if err != nil {
		return err
	}
	if err := a.offline.server.WriteTrust(localCA, []byte(a.settings.ServerCA)); err != nil {
		return err
	}
	identity := a.node.opts.Identity
	credentials := standin.Credentials{
		Kubelet: identity.KubeletKubeconfig, Network: identity.NetworkKubeconfig, DNS: identity.DNSKubeconfig,
	}
	if a.withProxy() {
		credentials.Proxy = identity.ProxyKubeconfig
	}
	a.offline.recorder = standin.NewRecorder(standin.RecorderOptions{
		NodeName: a.cfg.NodeName, Journal: record, Credentials: credentials,
		Reached: a.balancer.Reached(), Logger: a.log.With("component", "offline-record"),
	})
	return nil
}

// firstSinceBoot reports whether no agent has run since the machine's boot. It
// leaves a mark in RunDir, which does not outlive one.
func firstSinceBoot() (bool, error) {
	mark, err := os.OpenFile(filepath.Join(RunDir, "agent-started"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("mark that this agent has started: %w", err)
	}
	return true, mark.Close()
}
