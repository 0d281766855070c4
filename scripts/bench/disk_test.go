package main

import (
	"path/filepath"
	"testing"
)

func TestFileSystem(t *testing.T) {
	t.Parallel()
	const mounts = `24 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
25 24 0:22 / /var/lib rw - tmpfs tmpfs rw
26 25 7:1 / /var/lib/data rw,noatime master:3 - f2fs /dev/mmcblk0p2 rw
garbage
27 24 0:30 / /run
`
	for path, want := range map[string]string{
		"/var/lib/data":      "f2fs on /dev/mmcblk0p2",
		"/var/lib/data/x":    "f2fs on /dev/mmcblk0p2",
		"/var/lib/database":  "tmpfs on tmpfs",
		"/home/me":           "ext4 on /dev/vda",
		"/var/libexec/thing": "ext4 on /dev/vda",
	} {
		if got := fileSystem(mounts, path); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if got := fileSystem("", "/x"); got != "unknown file system" {
		t.Errorf("without mounts: %s", got)
	}
}

func TestSyncLatenciesAreThoseOfARealFile(t *testing.T) {
	t.Parallel()
	l, err := syncLatencies(filepath.Join(t.TempDir(), "probe"))
	if err != nil || len(l.each) != probes || l.p50() <= 0 {
		t.Errorf("%d latencies, p50 %v, %v", len(l.each), l.p50(), err)
	}
}
