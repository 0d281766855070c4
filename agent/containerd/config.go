package containerd

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/toml"
)

//go:embed base.toml.tmpl
var baseTemplate string

// templateFile is the user's override of the configuration, as k3s users know it.
const templateFile = "config-v3.toml.tmpl"

// Config is the data of containerd's configuration file, of the built-in
// template as well as of the user's. All paths are absolute.
type Config struct {
	// Root keeps images and metadata; State (on a tmpfs) what a reboot ends.
	Root, State string
	// Address and TTRPCAddress are the sockets of clients and of shims.
	Address, TTRPCAddress string
	// ShimSocketDir holds one socket for each pod; at most 42 bytes long.
	ShimSocketDir string

	// Snapshotter is "overlayfs", "native" or one that a template adds.
	Snapshotter string
	// OldSnapshotters hold containers from the time before another was chosen.
	OldSnapshotters []string
	// Platform is this machine's, e.g. "linux/arm64".
	Platform string
	// PauseImage is what holds a pod's namespaces open.
	PauseImage string
	// CertsDir is the directory of the registries' hosts.toml files.
	CertsDir string
	// MaxConcurrentDownloads of layers of one image.
	MaxConcurrentDownloads int
	// DiscardUnpackedLayers frees an image's compressed layers (a quarter to a
	// third of its size) once they are unpacked. The image can then not be
	// exported, pushed or served to other nodes any more, nor be unpacked again.
	DiscardUnpackedLayers bool

	CNIBinDirs []string
	CNIConfDir string

	Runtimes       []Runtime
	DefaultRuntime string
	// SystemdCgroup must be as the kubelet's cgroupDriver is.
	SystemdCgroup bool
	// RestrictOOMScoreAdj is for processes without CAP_SYS_RESOURCE.
	RestrictOOMScoreAdj bool
	EnableSELinux       bool
	EnableNRI           bool
	// DeviceOwnershipFromSecurityContext gives devices to the container's user.
	DeviceOwnershipFromSecurityContext bool
}

// DisabledPlugins are those that are compiled in but not wanted.
func (c Config) DisabledPlugins() []string {
	disabled := []string{
		"io.containerd.metrics.v1.grpc-otel",
		"io.containerd.metrics.v1.grpc-prometheus",
	}
	if !c.EnableNRI {
		disabled = append(disabled, "io.containerd.nri.v1.nri")
	}
	for _, s := range []string{snapshotterNative, snapshotterOverlay} {
		if s != c.Snapshotter && !slices.Contains(c.OldSnapshotters, s) {
			disabled = append(disabled, "io.containerd.snapshotter.v1."+s)
		}
	}
	return disabled
}

// RequiredPlugins make containerd's start fail with their error, instead of
// leaving a containerd that answers every call with "unimplemented".
func (c Config) RequiredPlugins() []string {
	return []string{
		"io.containerd.cri.v1.images",
		"io.containerd.cri.v1.runtime",
		"io.containerd.grpc.v1.cri",
		"io.containerd.metadata.v1.bolt",
		"io.containerd.runtime.v2.task",
		"io.containerd.snapshotter.v1." + c.Snapshotter,
	}
}

func (c Config) validate() error {
	if !slices.ContainsFunc(c.Runtimes, func(r Runtime) bool { return r.Name == c.DefaultRuntime }) {
		names := make([]string, len(c.Runtimes))
		for i, r := range c.Runtimes {
			names[i] = r.Name
		}
		return fmt.Errorf("default runtime %q is not on this machine: found %s; install it or choose another --default-runtime",
			c.DefaultRuntime, strings.Join(names, ", "))
	}
	return nil
}

// render makes the configuration file: the built-in template, or the user's,
// which may use the built-in one as {{ template "base" . }}. userTemplate is
// empty if there is none; name is its path, for errors.
func (c Config) render(userTemplate, name string) ([]byte, error) {
	base, err := newTemplate("base").Parse(baseTemplate)
	if err != nil {
		return nil, fmt.Errorf("parse built-in template: %w", err)
	}
	tmpl := base
	if userTemplate != "" {
		if tmpl, err = base.New(name).Parse(userTemplate); err != nil {
			return nil, fmt.Errorf("parse containerd template: %w; correct or remove %s", err, name)
		}
	}
	var out bytes.Buffer
	if err := tmpl.Execute(&out, c); err != nil {
		return nil, fmt.Errorf("execute containerd template: %w; correct or remove %s", err, name)
	}
	return out.Bytes(), nil
}

// write renders the configuration into dir (config.toml) and returns its path.
func (c Config) write(dir string) (string, error) {
	override := filepath.Join(dir, templateFile)
	user, err := os.ReadFile(override)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read containerd template: %w", err)
	}
	content, err := c.render(string(user), override)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "config.toml")
	if _, err := atomicfile.WriteIfChanged(path, content, 0o600); err != nil {
		return "", fmt.Errorf("containerd configuration: %w", err)
	}
	return path, nil
}

func newTemplate(name string) *template.Template {
	return template.New(name).Option("missingkey=error").Funcs(template.FuncMap{"toml": tomlValue})
}

// tomlValue prints a string or a list of strings as TOML.
func tomlValue(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return toml.Quote(v), nil
	case []string:
		quoted := make([]string, len(v))
		for i, s := range v {
			quoted[i] = toml.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]", nil
	default:
		return "", fmt.Errorf("toml: cannot print a %T", v)
	}
}
