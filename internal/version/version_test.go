package version

import (
	"maps"
	"runtime/debug"
	"testing"
)

func TestComponents(t *testing.T) {
	t.Parallel()
	got := components([]*debug.Module{
		{Path: "github.com/containerd/containerd/v2", Version: "v2.4.2"},
		{Path: "github.com/k3s-io/kine", Version: "v0.17.3", Replace: &debug.Module{Path: "github.com/k3s-io/kine", Version: "v0.17.2"}},
		{Path: "github.com/some/other", Version: "v1.0.0"},
	})
	if want := map[string]string{"containerd": "v2.4.2", "kine": "v0.17.2"}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	info := Get()
	if info.Version != Version || info.KubernetesVersion != KubernetesVersion || info.GoVersion == "" || info.Platform == "" {
		t.Errorf("%+v", info)
	}
}
