package datastorectl

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	store "github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/internal/config"
)

// control is a Control over a datastore with one key, whose server is stopped.
func control(t *testing.T) (Control, *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	var out bytes.Buffer
	c := Control{Out: &out, Socket: filepath.Join(dir, "status.sock"), DatastoreSocket: filepath.Join(dir, "datastore.sock")}
	c.Config = config.Server{Node: config.Node{DataDir: filepath.Join(dir, "data")}}
	if err := c.Config.Complete(func() (string, error) { return "box", nil }); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(c.Config.Database()), 0o700); err != nil {
		t.Fatal(err)
	}
	c.put(t, "/registry/a", "1")
	return c, &out
}

func (c Control) open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{Path: c.Config.Database()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (c Control) put(t *testing.T, key, value string) {
	t.Helper()
	s := c.open(t)
	if _, err := s.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (c Control) get(t *testing.T, key string) string {
	t.Helper()
	s := c.open(t)
	defer func() { _ = s.Close(context.Background()) }()
	resp, err := s.Range(t.Context(), &pb.RangeRequest{Key: []byte(key)})
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

func TestSnapshotsOfAStoppedServer(t *testing.T) {
	t.Parallel()
	c, out := control(t)
	if err := c.ListSnapshots(t.Context(), false); err != nil || !strings.Contains(out.String(), "There are no snapshots in ") {
		t.Errorf("list of none: %v, %q", err, out)
	}
	out.Reset()
	if err := c.SaveSnapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	name := strings.Fields(out.String())[1]
	out.Reset()
	var list []struct{ Name, Where string }
	if err := c.ListSnapshots(t.Context(), true); err != nil || json.Unmarshal(out.Bytes(), &list) != nil || len(list) != 1 || list[0].Name != name || list[0].Where != "local" {
		t.Errorf("list: %v, %s", err, out)
	}
	if err := c.VerifySnapshots(t.Context(), []string{name, "limpet-none"}); err == nil || !strings.Contains(err.Error(), "there is no snapshot limpet-none") ||
		!strings.Contains(out.String(), name+" is good") {
		t.Errorf("verify one that is there and one that is not: %v, %s", err, out)
	}

	c.put(t, "/registry/a", "2")
	if err := c.RestoreSnapshot(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if got := c.get(t, "/registry/a"); got != "1" {
		t.Errorf("after the restore: %q", got)
	}
	if err := c.DeleteSnapshots(t.Context(), []string{"../state.db", name}); err == nil || !strings.Contains(err.Error(), "../state.db") {
		t.Errorf("delete what is no snapshot: %v", err)
	}
	if _, err := os.Stat(c.Config.Database()); err != nil {
		t.Error(err)
	}
	out.Reset()
	if err := c.ListSnapshots(t.Context(), true); err != nil || strings.TrimSpace(out.String()) != "[]" {
		t.Errorf("list after all are deleted: %v, %s", err, out)
	}
}

func TestNoDatastore(t *testing.T) {
	t.Parallel()
	c, _ := control(t)
	c.Config.DataDir = t.TempDir()
	for name, err := range map[string]error{
		"save":   c.SaveSnapshot(t.Context()),
		"export": c.ExportDatastore(t.Context(), filepath.Join(t.TempDir(), "x"), FormatEtcd, false),
	} {
		if err == nil || !strings.Contains(err.Error(), "there is no datastore") || !strings.Contains(err.Error(), "--data-dir") {
			t.Errorf("%s without a datastore: %v", name, err)
		}
	}
	if entries, _ := os.ReadDir(c.Config.DataDir); len(entries) > 0 {
		t.Errorf("something was made in the data directory: %v", entries)
	}
}

// TestServerOfAnotherDirectory: the sockets answer for another datastore, as
// they do when limpet runs with another --data-dir.
func TestServerOfAnotherDirectory(t *testing.T) {
	t.Parallel()
	c, out := control(t)
	for _, socket := range []string{c.Socket, c.DatastoreSocket} {
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.SaveSnapshot(ctx); err != nil || !strings.Contains(out.String(), c.Config.Snapshots.Dir) {
		t.Errorf("snapshot: %v, %s", err, out)
	}
	if err := c.ExportDatastore(ctx, filepath.Join(t.TempDir(), "x"), FormatEtcd, false); err != nil {
		t.Errorf("export: %v", err)
	}
}

// TestStartingServer: the datastore is open, and nobody answers yet.
func TestStartingServer(t *testing.T) {
	t.Parallel()
	c, _ := control(t)
	s := c.open(t)
	defer func() { _ = s.Close(context.Background()) }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for name, err := range map[string]error{
		"save":   c.SaveSnapshot(ctx),
		"export": c.ExportDatastore(ctx, filepath.Join(t.TempDir(), "x"), FormatEtcd, false),
	} {
		if err == nil || !strings.Contains(err.Error(), "answers") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExportAndImport(t *testing.T) {
	t.Parallel()
	for _, format := range []string{FormatEtcd, FormatKine} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			c, out := control(t)
			file := filepath.Join(t.TempDir(), "exported")
			if err := c.ExportDatastore(t.Context(), file, format, false); err != nil {
				t.Fatal(err)
			}
			c.put(t, "/registry/a", "2")
			if err := c.ImportDatastore(t.Context(), Import{Source: file}); err == nil || !strings.Contains(err.Error(), "--replace") {
				t.Error("a datastore that exists was replaced without being told to")
			}
			if got := c.get(t, "/registry/a"); got != "2" {
				t.Errorf("a refused import changed the datastore: %q", got)
			}
			if err := c.ImportDatastore(t.Context(), Import{Source: file, Replace: true}); err != nil {
				t.Fatal(err)
			}
			if got := c.get(t, "/registry/a"); got != "1" {
				t.Errorf("after the import: %q", got)
			}
			if !strings.Contains(out.String(), "is kept as") {
				t.Errorf("not told where the old one is: %s", out)
			}
		})
	}
}

func TestWrongSources(t *testing.T) {
	t.Parallel()
	c, _ := control(t)
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		in   Import
		want string
	}{
		{Import{Source: filepath.Join(dir, "none")}, "no such file"},
		{Import{Source: dir}, "server/db/state.db"},
		{Import{Source: empty}, "an empty one"},
		{Import{Source: "ftp://box"}, "is no address of an etcd"},
		{Import{Source: "https://192.0.2.1:2379", CAFile: empty}, "there is no certificate in"},
		{Import{Source: "https://192.0.2.1:2379", CertFile: empty, KeyFile: empty}, "read client certificate"},
		{Import{Source: "http://192.0.2.1:2379", User: "root", PasswordFile: filepath.Join(dir, "none")}, "read password"},
	} {
		tt.in.Replace = true
		if err := c.ImportDatastore(t.Context(), tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("import %+v: %v, want %q", tt.in, err, tt.want)
		}
	}
	if got := c.get(t, "/registry/a"); got != "1" {
		t.Errorf("a wrong import changed the datastore: %q", got)
	}
}
