package server

import (
	"log/slog"
	"path/filepath"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	store "github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/datastore/snapshot"
	"github.com/limpetio/limpet/internal/atomicfile"
)

// A snapshot is taken when another version used the datastore before, and only
// then: not of an empty one, and not at each start.
func TestSnapshotBeforeUpgrade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := &datastore{file: filepath.Join(dir, "state.db"), snapshotDir: filepath.Join(dir, "snapshots"), node: "box", log: slog.New(slog.DiscardHandler)}
	s, err := store.Open(t.Context(), store.Options{Path: d.file})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close(t.Context()) })
	snapshots := func() int {
		t.Helper()
		list, err := snapshot.List(d.snapshotDir)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			if i.Reason != snapshot.Upgrade {
				t.Errorf("the reason is %s", i.Reason)
			}
		}
		return len(list)
	}
	d.beforeUpgrade(t.Context(), s)
	if n := snapshots(); n != 0 {
		t.Errorf("%d snapshots of an empty datastore", n)
	}
	if _, err := s.Put(t.Context(), &pb.PutRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	d.beforeUpgrade(t.Context(), s)
	if n := snapshots(); n != 0 {
		t.Errorf("%d snapshots at a start of the same version", n)
	}
	for range keptUpgrades + 1 {
		if err := atomicfile.Write(filepath.Join(dir, "limpet-version"), []byte("v0.0.1"), 0o600); err != nil {
			t.Fatal(err)
		}
		d.beforeUpgrade(t.Context(), s)
		d.beforeUpgrade(t.Context(), s)
	}
	if n := snapshots(); n != keptUpgrades {
		t.Errorf("%d snapshots after upgrades, want the newest %d", n, keptUpgrades)
	}
}
