package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/limpetio/limpet/agent"
	store "github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/datastore/etcdapi"
	"github.com/limpetio/limpet/datastore/snapshot"
	"github.com/limpetio/limpet/datastore/sqlog"
	"github.com/limpetio/limpet/datastore/transfer"
	"github.com/limpetio/limpet/internal/atomicfile"
	"github.com/limpetio/limpet/internal/version"
)

// DatastoreSocket is where the etcd API is served.
const DatastoreSocket = agent.RunDir + "/datastore.sock"

// datastoreStop is how long requests in flight may take when it stops: the
// apiserver, which is its only client as a rule, has stopped before.
const datastoreStop = 2 * time.Second

// datastore serves the etcd API over SQLite on a unix socket that only root can
// open. One that is damaged is replaced by the newest good snapshot.
type datastore struct {
	file, socket string
	snapshotDir  string
	node         string
	log          *slog.Logger

	open atomic.Pointer[store.Store]
	// recovered is what was put in the place of a damaged database; nil if
	// nothing had to be.
	recovered atomic.Pointer[snapshot.Recovered]
}

func (d *datastore) Name() string { return "datastore" }

// Endpoint is the address for the apiserver's --etcd-servers.
func (d *datastore) Endpoint() string { return "unix://" + d.socket }

func (d *datastore) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(filepath.Dir(d.file), 0o700); err != nil {
		return fmt.Errorf("create datastore directory: %w", err)
	}
	s, err := d.openOrRecover(ctx)
	if errors.Is(err, sqlog.ErrForeign) {
		err = fmt.Errorf("%w; `limpet datastore import` takes over the state of k3s", err)
	}
	if err != nil {
		return err
	}
	defer d.open.Store(nil)
	d.open.Store(s)
	d.beforeUpgrade(ctx, s)
	err = d.serve(ctx, s, ready)
	// ctx is done, but what was acknowledged has to get where it belongs.
	return errors.Join(err, s.Close(context.WithoutCancel(ctx)))
}

func (d *datastore) openOrRecover(ctx context.Context) (*store.Store, error) {
	opts := store.Options{Path: d.file, Logger: d.log}
	s, err := store.Open(ctx, opts)
	if !errors.Is(err, sqlog.ErrCorrupt) {
		return s, err
	}
	d.log.Error("the datastore is damaged; looking for a snapshot", "error", err)
	recovered, recoverErr := snapshot.Recover(ctx, d.file, d.snapshotDir,
		snapshot.RestoreOptions{Node: d.node, Cause: err, Logger: d.log})
	if recoverErr != nil {
		return nil, errors.Join(err, recoverErr)
	}
	d.recovered.Store(&recovered)
	return store.Open(ctx, opts)
}

// keptUpgrades is how many snapshots that were taken before an upgrade are kept.
const keptUpgrades = 2

// beforeUpgrade takes a snapshot when another version of limpet was the last to
// use the datastore: the way back, whatever the new one does to the objects. A
// failure stops nobody: there are scheduled ones.
func (d *datastore) beforeUpgrade(ctx context.Context, s *store.Store) {
	file := filepath.Join(filepath.Dir(d.file), "limpet-version")
	last, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		d.log.Warn("it cannot be told whether this is an upgrade", "error", err)
	}
	now := version.Version + " " + version.KubernetesVersion
	if string(last) == now {
		return
	}
	if s.State().Len() > 0 {
		info, err := snapshot.Save(ctx, s.Log(), d.snapshotDir, snapshot.SaveOptions{Node: d.node, Reason: snapshot.Upgrade})
		if err == nil {
			d.log.Info("saved a snapshot before an upgrade", "snapshot", info.Name, "from", string(last), "to", now)
			_, err = snapshot.Prune(ctx, d.snapshotDir, snapshot.Ring{Node: d.node, Reason: snapshot.Upgrade, Keep: keptUpgrades})
		}
		if err != nil {
			d.log.Warn("no snapshot before this upgrade", "error", err)
			return // the next start tries again
		}
	}
	if err := atomicfile.Write(file, []byte(now), 0o600); err != nil {
		d.log.Warn("the version that uses the datastore cannot be noted", "error", err)
	}
}

func (d *datastore) serve(ctx context.Context, s *store.Store, ready func()) error {
	if err := legacyregistry.Registerer().Register(s.Metrics()); err != nil {
		return fmt.Errorf("register metrics of the datastore: %w", err)
	}
	defer legacyregistry.Registerer().Unregister(s.Metrics())
	listener, err := etcdapi.Listen(d.socket)
	if err != nil {
		return err
	}
	server := etcdapi.New(etcdapi.Options{
		Socket: d.socket, Store: s, Logger: d.log,
		Snapshot: func(ctx context.Context, path string) error {
			_, err := transfer.ExportEtcdSnapshot(ctx, s, path, transfer.Options{NoTrailer: true})
			return err
		},
	})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	ready()
	select {
	case err = <-served:
		if err == nil {
			err = errors.New("stopped serving by itself")
		}
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), datastoreStop)
	defer cancel()
	server.Stop(stop)
	return err
}
