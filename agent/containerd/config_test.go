package containerd

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/pelletier/go-toml/v2"

	"github.com/limpetio/limpet/internal/logging"
)

var update = flag.Bool("update", false, "write the golden files")

func testConfig() Config {
	return Config{
		Root: "/var/lib/limpet/agent/containerd", State: "/run/limpet/containerd",
		Address: "/run/limpet/containerd/containerd.sock", TTRPCAddress: "/run/limpet/containerd/containerd.sock.ttrpc",
		ShimSocketDir: "/run/limpet/containerd/s",
		Snapshotter:   "overlayfs", Platform: "linux/arm64", PauseImage: DefaultPauseImage,
		CertsDir: "/var/lib/limpet/agent/etc/containerd/certs.d", MaxConcurrentDownloads: 3,
		CNIBinDirs: []string{"/payload/bin"}, CNIConfDir: "/var/lib/limpet/agent/etc/cni/net.d",
		Runtimes: []Runtime{
			{Name: "runc", Type: runcType, Shim: "/payload/bin/containerd-shim-runc-v2", BinaryName: "/payload/bin/runc"},
		},
		DefaultRuntime: "runc",
	}
}

func fullConfig() Config {
	c := testConfig()
	c.Snapshotter, c.OldSnapshotters = "native", []string{"overlayfs"}
	c.DiscardUnpackedLayers, c.SystemdCgroup, c.RestrictOOMScoreAdj = true, true, true
	c.EnableSELinux, c.EnableNRI, c.DeviceOwnershipFromSecurityContext = true, true, true
	c.PauseImage = `odd "name" \ with ` + "\ttab"
	c.Runtimes = append(c.Runtimes,
		Runtime{Name: "nvidia", Type: runcType, Shim: "/payload/bin/containerd-shim-runc-v2", BinaryName: "/usr/bin/nvidia-container-runtime"},
		Runtime{Name: "spin", Type: "io.containerd.spin.v2", Shim: "/usr/local/bin/containerd-shim-spin-v2"})
	c.DefaultRuntime = "nvidia"
	return c
}

func TestRenderGolden(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{"default.toml": testConfig(), "full.toml": fullConfig()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := cfg.render("", "")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(path, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("differs from %s (go test -update writes it):\n%s", path, got)
			}
		})
	}
}

// TestEveryKeyIsKnown decodes the configuration with containerd's own types:
// containerd only warns of a key that a new version does not have any more.
func TestEveryKeyIsKnown(t *testing.T) {
	t.Parallel()
	registered := map[string]plugin.Registration{}
	for _, r := range registry.Graph(func(*plugin.Registration) bool { return false }) {
		registered[r.URI()] = r
	}
	for name, cfg := range map[string]Config{"default": testConfig(), "full": fullConfig()} {
		content, err := cfg.render("", "")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		loaded, err := loadConfig(t.Context(), path, logging.Setup(&log, logging.Options{}).Root)
		if err != nil {
			t.Fatal(err)
		}
		if log.Len() > 0 {
			t.Errorf("%s: containerd warns:\n%s", name, log.String())
		}
		for id, section := range loaded.Plugins {
			r, ok := registered[id]
			if !ok {
				t.Errorf("%s: there is no plugin %s", name, id)
				continue
			}
			b, err := toml.Marshal(section)
			if err != nil {
				t.Fatal(err)
			}
			if err := strictDecode(b, r.Config); err != nil {
				t.Errorf("%s: plugin %s: %v", name, id, err)
			}
		}
		for _, id := range slices.Concat(cfg.DisabledPlugins(), cfg.RequiredPlugins()) {
			if _, ok := registered[id]; !ok {
				t.Errorf("%s: there is no plugin %s", name, id)
			}
		}
	}
}

func strictDecode(b []byte, into any) error {
	err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(into)
	if missing, ok := errors.AsType[*toml.StrictMissingError](err); ok {
		return errors.New(missing.String())
	}
	return err
}

func TestUserTemplate(t *testing.T) {
	t.Parallel()
	const name = "/etc/config-v3.toml.tmpl"
	cfg := testConfig()
	got, err := cfg.render("{{ template \"base\" . }}\n# {{ .PauseImage }}\n[debug]\n  level = {{ toml \"warn\" }}\n", name)
	if err != nil {
		t.Fatal(err)
	}
	base, err := cfg.render("", "")
	if err != nil {
		t.Fatal(err)
	}
	if want := string(base) + "\n# limpet.io/pause:1\n[debug]\n  level = \"warn\"\n"; string(got) != want {
		t.Errorf("got\n%s", got)
	}
	for broken, reason := range map[string]string{
		"{{ template \"base\" }":               "unexpected",
		"{{ template \"nothing\" . }}":         "nothing",
		"{{ .NodeConfig.AgentConfig }}":        "NodeConfig",
		"a\n{{ toml .DiscardUnpackedLayers }}": "cannot print a bool",
	} {
		_, err := cfg.render(broken, name)
		if err == nil || !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: %v", broken, err)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	cfg := fullConfig()
	if err := cfg.validate(); err != nil {
		t.Error(err)
	}
	cfg.DefaultRuntime = "crun"
	if err := cfg.validate(); err == nil || !strings.Contains(err.Error(), "found runc, nvidia, spin") {
		t.Errorf("got %v", err)
	}
}
