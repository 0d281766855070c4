package datastorectl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	store "github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/datastore/transfer"
	"github.com/limpetio/limpet/internal/logging"
)

// Import says what becomes the datastore, and how to reach it.
type Import struct {
	// Source is a database file or the data directory of k3s, a snapshot of
	// etcd, or the address of an etcd: http://, https:// or unix://.
	Source string
	// Replace puts it in the place of a datastore that exists, which is kept aside.
	Replace bool
	// CAFile, CertFile and KeyFile are for https; PasswordFile goes with User.
	CAFile, CertFile, KeyFile string
	User, PasswordFile        string
	Prefix                    string
}

// Formats that Export writes.
const (
	FormatEtcd = "etcd"
	FormatKine = "kine"
)

// ImportDatastore makes the datastore from another one.
func (c Control) ImportDatastore(ctx context.Context, in Import) error {
	dst := c.Config.Database()
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return fmt.Errorf("create datastore directory: %w", err)
	}
	o := transfer.Options{Logger: c.logger(), Replace: in.Replace, Progress: c.progress()}
	report, err := c.importFrom(ctx, in, dst, o)
	if err != nil {
		return hint(err)
	}
	c.told("Imported", report)
	fmt.Fprintln(c.Out, "Start limpet server to go on from there.")
	return nil
}

func (c Control) importFrom(ctx context.Context, in Import, dst string, o transfer.Options) (transfer.Report, error) {
	if strings.Contains(in.Source, "://") {
		cfg, err := in.etcd()
		if err != nil {
			return transfer.Report{}, err
		}
		return transfer.ImportEtcd(ctx, cfg, dst, o)
	}
	src := in.Source
	info, err := os.Stat(src)
	if err != nil {
		return transfer.Report{}, err
	}
	if info.IsDir() {
		src = filepath.Join(src, "server", "db", "state.db")
	}
	if sqlite, err := isSQLite(src); err != nil {
		return transfer.Report{}, err
	} else if sqlite {
		return transfer.ImportKine(ctx, src, dst, o)
	}
	return transfer.ImportEtcdSnapshot(ctx, src, dst, o)
}

// isSQLite tells by the first bytes, which SQLite's file format defines.
func isSQLite(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	const magic = "SQLite format 3\x00"
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(f, head); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	return string(head) == magic, nil
}

func (in Import) etcd() (transfer.EtcdConfig, error) {
	cfg := transfer.EtcdConfig{Endpoints: strings.Split(in.Source, ","), Username: in.User, Prefix: in.Prefix}
	for _, e := range cfg.Endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "unix" {
			return cfg, fmt.Errorf("%q is no address of an etcd such as https://10.0.0.1:2379", e)
		}
	}
	if in.PasswordFile != "" {
		password, err := os.ReadFile(in.PasswordFile)
		if err != nil {
			return cfg, fmt.Errorf("read password: %w", err)
		}
		cfg.Password = strings.TrimRight(string(password), "\r\n")
	}
	if !strings.HasPrefix(in.Source, "https://") {
		return cfg, nil
	}
	cfg.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if in.CAFile != "" {
		pem, err := os.ReadFile(in.CAFile)
		if err != nil {
			return cfg, fmt.Errorf("read authority: %w", err)
		}
		cfg.TLS.RootCAs = x509.NewCertPool()
		if !cfg.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return cfg, fmt.Errorf("there is no certificate in %s", in.CAFile)
		}
	}
	if in.CertFile != "" || in.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(in.CertFile, in.KeyFile)
		if err != nil {
			return cfg, fmt.Errorf("read client certificate: %w", err)
		}
		cfg.TLS.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// ExportDatastore writes the datastore for another program, to a new file.
func (c Control) ExportDatastore(ctx context.Context, file, format string, replace bool) error {
	o := transfer.Options{Logger: c.logger(), Replace: replace, Progress: c.progress()}
	export := transfer.ExportEtcdSnapshot
	if format == FormatKine {
		export = transfer.ExportKine
	}
	var report transfer.Report
	err := c.withStore(ctx, func(s *store.Store) (err error) {
		report, err = export(ctx, s, file, o)
		return err
	})
	if err != nil {
		return hint(err)
	}
	c.told("Exported", report)
	return nil
}

// hint names the flag that allows what was refused.
func hint(err error) error {
	if errors.Is(err, transfer.ErrExists) {
		return fmt.Errorf("%w; --replace allows it", err)
	}
	return err
}

// withStore opens the datastore, or a copy of it while the server has it open.
func (c Control) withStore(ctx context.Context, fn func(*store.Store) error) error {
	running, err := c.running()
	if err != nil {
		return err
	}
	if running {
		return c.withCopy(ctx, fn)
	}
	s, err := c.openStopped(ctx)
	if err != nil {
		return err
	}
	return errors.Join(fn(s), s.Close(context.WithoutCancel(ctx)))
}

// withCopy asks the running server for a snapshot and opens that.
func (c Control) withCopy(ctx context.Context, fn func(*store.Store) error) error {
	tmp, err := os.MkdirTemp(filepath.Dir(c.Config.Database()), ".export-*")
	if err != nil {
		return fmt.Errorf("make a directory for the copy: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	copied := filepath.Join(tmp, "etcd.snapshot")
	if err := c.fetch(ctx, copied); err != nil {
		return err
	}
	db := filepath.Join(tmp, "state.db")
	// The same revisions: it is not served to anybody.
	if _, err := transfer.ImportEtcdSnapshot(ctx, copied, db, transfer.Options{Logger: c.logger(), Margin: -1}); err != nil {
		return err
	}
	s, err := store.Open(ctx, store.Options{Path: db})
	if err != nil {
		return err
	}
	return errors.Join(fn(s), s.Close(context.WithoutCancel(ctx)))
}

func (c Control) fetch(ctx context.Context, file string) error {
	// The client would try to connect for ever.
	probe, err := net.DialTimeout("unix", c.DatastoreSocket, 5*time.Second)
	if err != nil {
		return fmt.Errorf("a process has the datastore open (%s.lock), but no server answers: %w; try again when it has started or ended", c.Config.Database(), err)
	}
	_ = probe.Close()
	client, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"unix://" + c.DatastoreSocket}, Context: ctx, DialTimeout: 5 * time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		return fmt.Errorf("connect to the running server on %s: %w", c.DatastoreSocket, err)
	}
	defer client.Close()
	stream, err := client.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("ask the running server for a snapshot: %w", err)
	}
	defer stream.Close()
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, stream)
	if err := errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("receive a snapshot from the running server: %w", err)
	}
	return nil
}

func (c Control) told(what string, r transfer.Report) {
	fmt.Fprintf(c.Out, "%s %d keys and %d leases (%s) in %.1f s; the revision was %d and is %d.\n",
		what, r.Keys, r.Leases, size(r.Bytes), r.Duration.Seconds(), r.SourceRevision, r.Revision)
	if r.Dropped > 0 {
		fmt.Fprintf(c.Out, "%d keys were left out: those that the source keeps for itself.\n", r.Dropped)
	}
	if r.Kept != "" {
		fmt.Fprintf(c.Out, "What was there before is kept as %s.\n", r.Kept)
	}
	if r.InUse {
		fmt.Fprintln(c.Out, "The source is in use by another process: what that writes from now on is not here.")
	}
}

// progress shows how far it is, on a terminal only.
func (c Control) progress() func(done, total int64) {
	out, ok := c.Out.(*os.File)
	if !ok || !logging.Terminal(out) {
		return nil
	}
	return func(done, total int64) {
		if total > 0 {
			fmt.Fprintf(out, "\r%d of %d keys (%d %%)", done, total, done*100/total)
		} else {
			fmt.Fprintf(out, "\r%d keys", done)
		}
		if done == total {
			fmt.Fprintln(out)
		}
	}
}
