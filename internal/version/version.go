// Package version says what this binary is. The variables are stamped by the
// linker, which can set nothing but package-level string variables:
//
//	go build -ldflags "-X github.com/limpetio/limpet/internal/version.Version=v0.1.0 …"
//
// Nothing else assigns to them.
package version

import (
	"runtime"
	"runtime/debug"
)

var (
	// Version is limpet's own version.
	Version = "v0.1.0-dev"
	// Commit is the commit it was built from; empty when built outside a checkout.
	Commit = ""
	// KubernetesVersion is the version the Kubernetes components report.
	KubernetesVersion = "v1.37.2+limpet"
	// PublicKey is the minisign key (base64) that signs releases. Only what `make
	// package` builds has one; without it nothing can be checked, and so nothing is
	// taken from outside.
	PublicKey = ""
)

// Info is what `limpet version -o json` prints.
type Info struct {
	Version           string            `json:"version"`
	Commit            string            `json:"commit,omitempty"`
	KubernetesVersion string            `json:"kubernetesVersion"`
	GoVersion         string            `json:"goVersion"`
	Platform          string            `json:"platform"`
	Components        map[string]string `json:"components,omitempty"`
}

// Get describes the running binary. Components are the versions of the modules
// compiled in, as the Go linker recorded them.
func Get() Info {
	info := Info{
		Version:           Version,
		Commit:            Commit,
		KubernetesVersion: KubernetesVersion,
		GoVersion:         runtime.Version(),
		Platform:          runtime.GOOS + "/" + runtime.GOARCH,
	}
	if build, ok := debug.ReadBuildInfo(); ok {
		info.Components = components(build.Deps)
	}
	return info
}

// components picks the modules that people ask about, by the names they know.
func components(deps []*debug.Module) map[string]string {
	names := map[string]string{
		"github.com/containerd/containerd/v2": "containerd",
		"github.com/coredns/coredns":          "coredns",
		"github.com/flannel-io/flannel":       "flannel",
		"github.com/k3s-io/kine":              "kine",
		"modernc.org/sqlite":                  "sqlite",
		"sigs.k8s.io/knftables":               "knftables",
	}
	out := map[string]string{}
	for _, d := range deps {
		name, ok := names[d.Path]
		if !ok {
			continue
		}
		if d.Replace != nil {
			d = d.Replace
		}
		out[name] = d.Version
	}
	return out
}
