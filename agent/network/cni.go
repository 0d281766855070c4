package network

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// cniConfig is what the pods' interfaces are made from.
type cniConfig struct {
	PodCIDRs []string // one for each family
	MTU      int
	DataDir  string // host-local's address leases
}

// cniConfFile sorts before what other network plugins install.
const cniConfFile = "10-limpet.conflist"

// object keeps the JSON below readable.
type object = map[string]any

// conflist renders the configuration for the CNI bridge, portmap and bandwidth plugins.
func (c cniConfig) conflist() ([]byte, error) {
	ranges := make([][]object, 0, len(c.PodCIDRs))
	routes := make([]object, 0, len(c.PodCIDRs))
	for _, cidr := range c.PodCIDRs {
		ranges = append(ranges, []object{{"subnet": cidr}})
	}
	return json.MarshalIndent(object{
		"cniVersion": "1.0.0",
		"name":       "cbr0",
		"plugins": []object{
			{
				"type": "bridge", "bridge": "cni0",
				"isGateway": true, "isDefaultGateway": true,
				"hairpinMode": true, "forceAddress": true,
				"mtu":  c.MTU,
				"ipam": object{"type": "host-local", "dataDir": c.DataDir, "ranges": ranges, "routes": routes},
			},
			{"type": "portmap", "capabilities": object{"portMappings": true}, "backend": "nftables"},
			{"type": "bandwidth", "capabilities": object{"bandwidth": true}},
		},
	}, "", "  ")
}

// writeCNIConfig puts the configuration in place in one step: containerd loads
// the directory on every change and must never see half a file, nor a
// temporary one.
func writeCNIConfig(dir string, c cniConfig) error {
	data, err := c.conflist()
	if err != nil {
		return fmt.Errorf("render CNI configuration: %w", err)
	}
	data = append(data, '\n')
	path := filepath.Join(dir, cniConfFile)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create CNI configuration directory: %w", err)
	}
	staged := filepath.Join(filepath.Dir(dir), cniConfFile)
	if err := atomicfile.Write(staged, data, 0o600); err != nil {
		return fmt.Errorf("CNI configuration: %w", err)
	}
	if err := os.Rename(staged, path); err != nil {
		return fmt.Errorf("put CNI configuration in place: %w", err)
	}
	return wakeContainerd(dir)
}

// wakeContainerd makes containerd load the directory. It takes no notice of
// files that appear, expecting a write to follow (containerd's
// internal/cri/server/cni_conf_syncer.go), but it does of one that goes.
func wakeContainerd(dir string) error {
	marker := filepath.Join(dir, ".reload")
	err := os.WriteFile(marker, nil, 0o600)
	if err == nil {
		err = os.Remove(marker)
	}
	if err != nil {
		return fmt.Errorf("announce CNI configuration: %w", err)
	}
	return nil
}
