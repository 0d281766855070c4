package server

import (
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"

	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/nodeupgrade"
	"github.com/limpetio/limpet/internal/upgrade"
	"github.com/limpetio/limpet/internal/version"
	"github.com/limpetio/limpet/server/releases"
	"github.com/limpetio/limpet/server/upgrades"
)

// upgradesAddon is the name by which --disable knows the upgrading of agents.
const upgradesAddon = upgrades.Name

func (s *server) upgradesDisabled() bool { return slices.Contains(s.cfg.Disable, upgradesAddon) }

func (l layout) releases() string { return l.server("release") }

func releaseOptions(dataDir string, log *slog.Logger) releases.Options {
	return releases.Options{
		Dir: layout{dataDir}.releases(), ProofDir: upgrade.ReleaseDir(dataDir), Executable: "/proc/self/exe",
		Version: version.Version, Arch: runtime.GOARCH, PublicKey: version.PublicKey, Logger: log,
	}
}

// Releases is what `limpet release` does on a server.
func Releases(w io.Writer, cfg config.Server) releases.Control {
	return releases.Control{Out: w, Options: releaseOptions(cfg.DataDir, slog.New(slog.NewTextHandler(os.Stderr, nil)))}
}

// prepareUpgrades has the API server give out releases.
func (s *server) prepareUpgrades() {
	s.releases = releases.New(releaseOptions(s.cfg.DataDir, s.log.With("component", upgrades.Name)))
	if s.upgradesDisabled() {
		return
	}
	s.apiserver.handle(nodeupgrade.ServerPath, s.releases.Handler())
}

// allowLongDownloads takes downloads of a release out of the limit of a minute,
// and of the number, that the apiserver has for requests: a release takes as long as
// the node's line is slow.
func allowLongDownloads(cfg *app.Config) {
	generic := cfg.Aggregator.GenericConfig
	before := generic.LongRunningFunc
	generic.LongRunningFunc = func(r *http.Request, info *request.RequestInfo) bool {
		return strings.HasPrefix(r.URL.Path, nodeupgrade.ServerPath) || before != nil && before(r, info)
	}
}

// addUpgrades adds what upgrades agents as UpgradePlans say.
func (s *server) addUpgrades(sup *component.Supervisor) error {
	if s.upgradesDisabled() {
		return nil // the plans go with their definition
	}
	restConfig, err := clientcmd.BuildConfigFromFlags("", s.certs.Upgrades.Kubeconfig)
	if err != nil {
		return err
	}
	if err := s.releases.Prune(); err != nil {
		s.log.Warn("releases that are not given out any more cannot be removed", "dir", s.layout.releases(), "error", err)
	}
	controller := upgrades.New(upgrades.Options{
		RestConfig: restConfig, Version: version.Version, Served: s.releases.Served,
		Unsettled: func() bool {
			j, found, err := upgrade.LoadIfAny(s.cfg.DataDir)
			return err == nil && found && !j.Final()
		},
		Logger: s.log.With("component", upgrades.Name),
	})
	return sup.Add(controller, component.Spec{After: []string{permissionsName}, Restart: true})
}
