// Package datastorectl is what `limpet snapshot` and `limpet datastore` do. A
// snapshot of a running server is taken by the server itself, which the status
// socket leads to; everything that replaces the datastore wants it stopped.
package datastorectl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	store "github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/datastore/snapshot"
	"github.com/limpetio/limpet/datastore/sqlog"
	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/status"
)

// Control works on the datastore of one configuration.
type Control struct {
	Config config.Server
	Out    io.Writer
	// Socket is the status socket of the server.
	Socket string
	// DatastoreSocket is where the server offers the etcd API.
	DatastoreSocket string
}

// SaveSnapshot takes a snapshot: of the running server, or else of the files.
func (c Control) SaveSnapshot(ctx context.Context) error {
	var info snapshot.Info
	running, err := c.running()
	switch {
	case err != nil:
	case running:
		info, err = status.TakeSnapshot(ctx, c.Socket, snapshot.Manual)
	default:
		info, err = c.saveStopped(ctx)
	}
	if info.Name != "" {
		fmt.Fprintf(c.Out, "Saved %s in %s: %d keys at revision %d, %s\n",
			info.Name, filepath.Dir(info.Path), info.Keys, info.Revision, size(info.Bytes))
	}
	return err
}

// saveStopped opens the datastore for as long as it takes.
func (c Control) saveStopped(ctx context.Context) (snapshot.Info, error) {
	s, err := c.openStopped(ctx)
	if err != nil {
		return snapshot.Info{}, err
	}
	o := snapshot.SchedulerOptions{Source: s.Log(), Dir: c.Config.Snapshots.Dir, Node: c.Config.NodeName, Retention: c.Config.Snapshots.Retention}
	if o.Bucket, err = c.bucket(); err != nil {
		return snapshot.Info{}, errors.Join(err, s.Close(ctx))
	}
	info, err := snapshot.NewScheduler(o).Take(ctx, snapshot.Manual)
	return info, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
}

// running tells whether a server has this very datastore open. That a server
// answers on the socket says nothing: it may have another data directory.
func (c Control) running() (bool, error) {
	if _, err := os.Stat(c.Config.Database()); err != nil { // opening would create one
		return false, fmt.Errorf("there is no datastore: %w; is it elsewhere (--data-dir)?", err)
	}
	unlock, err := sqlog.Lock(c.Config.Database())
	if errors.Is(err, sqlog.ErrInUse) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	unlock()
	return false, nil
}

func (c Control) openStopped(ctx context.Context) (*store.Store, error) {
	return store.Open(ctx, store.Options{Path: c.Config.Database()})
}

// bucket is nil without one.
func (c Control) bucket() (*snapshot.Bucket, error) {
	if !c.Config.Snapshots.S3 {
		return nil, nil
	}
	return snapshot.OpenBucket(c.Config.Snapshots.Bucket)
}

// listed is a snapshot and where it is.
type listed struct {
	snapshot.Info
	Where string `json:"where"` // local, or the bucket
}

// ListSnapshots prints the snapshots of the directory, and of the bucket if
// there is one.
func (c Control) ListSnapshots(ctx context.Context, asJSON bool) error {
	list, err := snapshot.List(c.Config.Snapshots.Dir)
	if err != nil {
		return err
	}
	all := make([]listed, 0, len(list))
	for _, i := range list {
		all = append(all, listed{i, "local"})
	}
	bucket, err := c.bucket()
	if err == nil && bucket != nil {
		list, err = bucket.List(ctx)
		for _, i := range list {
			all = append(all, listed{i, bucket.String()})
		}
	}
	if asJSON {
		enc := json.NewEncoder(c.Out)
		enc.SetIndent("", "  ")
		return errors.Join(enc.Encode(all), err)
	}
	return errors.Join(c.printSnapshots(all), err)
}

func (c Control) printSnapshots(all []listed) error {
	if len(all) == 0 {
		_, err := fmt.Fprintf(c.Out, "There are no snapshots in %s.\n", c.Config.Snapshots.Dir)
		return err
	}
	w := tabwriter.NewWriter(c.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tCREATED\tREVISION\tKEYS\tSIZE\tREASON\tWHERE")
	for _, i := range all {
		if i.Damage != "" {
			fmt.Fprintf(w, "%s\t%s\t%d\t-\t%s\tDAMAGED: %s\t%s\n", i.Name, i.Created.Format(time.RFC3339), i.Revision, size(i.Bytes), i.Damage, i.Where)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", i.Name, i.Created.Format(time.RFC3339), i.Revision, i.Keys, size(i.Bytes), i.Reason, i.Where)
	}
	return w.Flush()
}

// VerifySnapshots proves that snapshots, given by name or as files, can be restored.
func (c Control) VerifySnapshots(ctx context.Context, names []string) error {
	var errs []error
	for _, name := range names {
		err := c.withFile(ctx, name, func(file string) error {
			info, err := snapshot.Verify(ctx, file, "")
			if err == nil {
				fmt.Fprintf(c.Out, "%s is good: %d keys at revision %d\n", info.Name, info.Keys, info.Revision)
			}
			return err
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// RestoreSnapshot puts a snapshot, given by name or as a file, in the place of
// the datastore.
func (c Control) RestoreSnapshot(ctx context.Context, name string) error {
	return c.withFile(ctx, name, func(file string) error {
		r, err := snapshot.Restore(ctx, file, c.Config.Database(), snapshot.RestoreOptions{Logger: c.logger()})
		if err != nil {
			return err
		}
		fmt.Fprintf(c.Out, "%s\nStart limpet server to go on from there.\n", sentence(r.String()))
		return nil
	})
}

// DeleteSnapshots deletes snapshots by name, here and in the bucket. Those that
// exist are deleted, whatever becomes of the others.
func (c Control) DeleteSnapshots(ctx context.Context, names []string) error {
	bucket, err := c.bucket()
	if err != nil {
		return err
	}
	var inBucket []snapshot.Info
	if bucket != nil {
		if inBucket, err = bucket.List(ctx); err != nil {
			return err
		}
	}
	var errs []error
	for _, name := range names {
		err := snapshot.Delete(ctx, c.Config.Snapshots.Dir, name)
		uploaded := slices.ContainsFunc(inBucket, func(i snapshot.Info) bool { return i.Name == name })
		if uploaded {
			if errors.Is(err, os.ErrNotExist) {
				err = nil
			}
			err = errors.Join(err, bucket.Delete(ctx, name))
		}
		if err == nil {
			fmt.Fprintf(c.Out, "Deleted %s\n", name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// withFile finds a snapshot: a path, a name in the directory, or one in the
// bucket, which is fetched for as long as fn runs.
func (c Control) withFile(ctx context.Context, name string, fn func(file string) error) error {
	if strings.ContainsRune(name, filepath.Separator) {
		return fn(name)
	}
	for _, file := range []string{filepath.Join(c.Config.Snapshots.Dir, name), name} {
		if _, err := os.Stat(file); err == nil {
			return fn(file)
		}
	}
	bucket, err := c.bucket()
	if err != nil {
		return err
	}
	if bucket == nil {
		return fmt.Errorf("there is no snapshot %s in %s, and no such file; `limpet snapshot list` shows what there is", name, c.Config.Snapshots.Dir)
	}
	tmp, err := os.MkdirTemp("", "limpet-snapshot-")
	if err != nil {
		return fmt.Errorf("make a directory for the download: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	file, err := bucket.Download(ctx, name, tmp)
	if err != nil {
		return err
	}
	return fn(file)
}

// logger shows what a person should know while it works: warnings.
func (c Control) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(c.Out, &slog.HandlerOptions{Level: slog.LevelError}))
}

func size(bytes int64) string {
	if bytes < 1<<20 {
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}

func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
