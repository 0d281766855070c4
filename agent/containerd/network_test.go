package containerd

import (
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
)

func TestForeignNetwork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for foreign, want := range map[bool]struct {
		bin  []string
		conf string
	}{
		false: {[]string{"/payload"}, filepath.Join(dir, "agent", "etc", "cni", "net.d")},
		true:  {[]string{"/payload", "/opt/cni/bin"}, "/etc/cni/net.d"},
	} {
		c := New(Options{DataDir: dir, RunDir: filepath.Join(dir, "run"), PayloadBin: "/payload", ForeignNetwork: foreign,
			Snapshotter: snapshotterNative, Logger: slog.New(slog.DiscardHandler)})
		cfg, err := c.config(filepath.Join(dir, "etc"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(cfg.CNIBinDirs, want.bin) || cfg.CNIConfDir != want.conf {
			t.Errorf("foreign %t: plugins in %q, configuration in %s", foreign, cfg.CNIBinDirs, cfg.CNIConfDir)
		}
	}
}
