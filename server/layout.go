package server

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/limpetio/limpet/agent"
	"github.com/limpetio/limpet/internal/machine"
)

// layout is where the server keeps its files.
type layout struct{ dataDir string }

// ManifestsDir is where the server with this data directory looks for manifests.
func ManifestsDir(dataDir string) string { return layout{dataDir}.manifests() }

func (l layout) server(elem ...string) string {
	return filepath.Join(append([]string{l.dataDir, "server"}, elem...)...)
}

func (l layout) tls() string                  { return l.server("tls") }
func (l layout) manifests() string            { return l.server("manifests") }
func (l layout) authenticationConfig() string { return l.server("etc", "authentication.yaml") }
func (l layout) auditPolicy() string          { return l.server("etc", "audit-policy.yaml") }

func (l layout) nodeID() string { return filepath.Join(l.dataDir, "agent", "node-id") }

// create makes the directories. Everything below the data directory is root's alone.
func (l layout) create() error {
	for _, dir := range []string{l.server("db"), l.tls(), l.manifests(), l.server("etc")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create server directory: %w", err)
		}
	}
	return machine.RunDir(agent.RunDir)
}
