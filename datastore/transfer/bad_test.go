package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/limpetio/limpet/datastore"
	"github.com/limpetio/limpet/datastore/sqlog"
	"github.com/limpetio/limpet/internal/testenv"
)

// sources are a store with some keys, and what is exported of it.
type sources struct {
	store          *datastore.Store
	limpet         string
	kine, snapshot string
}

func makeSources(t *testing.T, values ...[]byte) sources {
	t.Helper()
	dir := t.TempDir()
	s := sources{limpet: filepath.Join(dir, "limpet.db"), kine: filepath.Join(dir, "kine.db"), snapshot: filepath.Join(dir, "snapshot.db")}
	s.store = openStore(t, s.limpet)
	for i := range 3000 {
		values = append(values, fmt.Appendf(nil, "value %d", i))
	}
	for i := 0; i < len(values); i += 100 {
		var ops []*pb.RequestOp
		for j, v := range values[i:min(i+100, len(values))] {
			put := &pb.PutRequest{Key: fmt.Appendf(nil, "/registry/%d", i+j), Value: v}
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		must[*pb.TxnResponse](t)(s.store.Txn(t.Context(), &pb.TxnRequest{Success: ops}))
	}
	must[Report](t)(ExportKine(t.Context(), s.store, s.kine, Options{}))
	must[Report](t)(ExportEtcdSnapshot(t.Context(), s.store, s.snapshot, Options{}))
	return s
}

func kineSQL(t *testing.T, path string, statements ...string) {
	t.Helper()
	c, done, err := openSQLite(t.Context(), path, url.Values{})
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	for _, s := range statements {
		if _, err := c.ExecContext(t.Context(), s); err != nil {
			t.Fatal(s, err)
		}
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestBadSources(t *testing.T) {
	t.Parallel()
	good := makeSources(t)
	kineFile, snapshotFile := must[[]byte](t)(os.ReadFile(good.kine)), must[[]byte](t)(os.ReadFile(good.snapshot))
	table := strings.Replace(kineTable, "old_value BLOB", "", 1)
	table = table[:strings.LastIndex(table, ",")] + ")"
	// Offsets of pages that hold something, in both.
	flipped := func(b []byte, at int) []byte {
		b = []byte(string(b))
		for i := range 64 {
			b[at+i] ^= 0xff
		}
		return b
	}
	for name, test := range map[string]struct {
		snapshot  bool
		make      func(t *testing.T, path string)
		noTrailer bool
		want      error
		says      string
	}{
		"missing":          {want: fs.ErrNotExist, says: "no such file"},
		"directory":        {make: mkdir, want: ErrForeign},
		"empty":            {make: func(t *testing.T, p string) { write(t, p, nil) }, want: ErrForeign},
		"text":             {make: func(t *testing.T, p string) { write(t, p, []byte(strings.Repeat("text\n", 1000))) }, want: ErrForeign, says: "not a SQLite database"},
		"truncated":        {make: func(t *testing.T, p string) { write(t, p, kineFile[:len(kineFile)/2]) }, want: ErrDamaged},
		"truncated a bit":  {make: func(t *testing.T, p string) { write(t, p, kineFile[:len(kineFile)-4096]) }, want: ErrDamaged},
		"overwritten":      {make: func(t *testing.T, p string) { write(t, p, flipped(kineFile, 2*4096)) }, want: ErrDamaged},
		"another table":    {make: func(t *testing.T, p string) { kineSQL(t, p, "CREATE TABLE t(x)") }, want: ErrForeign, says: "no table kine"},
		"wrong table":      {make: func(t *testing.T, p string) { kineSQL(t, p, "CREATE TABLE kine(id, name)") }, want: ErrForeign, says: "columns"},
		"a column is less": {make: func(t *testing.T, p string) { kineSQL(t, p, table) }, want: ErrForeign, says: "old_value"},
		"a column is more": {make: func(t *testing.T, p string) { kineSQL(t, p, kineTable, "ALTER TABLE kine ADD COLUMN shard INTEGER") }, want: ErrNewer, says: "shard"},
		"newer":            {make: func(t *testing.T, p string) { kineSQL(t, p, kineTable, "PRAGMA user_version=2") }, want: ErrNewer, says: "newer Limpet"},
		"revision too big": {make: func(t *testing.T, p string) {
			kineSQL(t, p, kineTable, fmt.Sprintf("INSERT INTO kine(id, name) VALUES(%d, 'a')", int64(sqlog.MaxRevision+1)))
		}, want: ErrDamaged},
		"revision negative": {make: func(t *testing.T, p string) { kineSQL(t, p, kineTable, "INSERT INTO kine(id, name) VALUES(-1, 'a')") }, want: ErrDamaged},
		"not a number": {make: func(t *testing.T, p string) {
			kineSQL(t, p, kineTable, "INSERT INTO kine(name, lease) VALUES('a', 'b')")
		}, want: ErrDamaged},
		"Limpet's own": {make: func(t *testing.T, p string) {
			closeStore(t, openStore(t, p))
		}, want: ErrForeign, says: "Limpet's own"},

		"snapshot missing":            {snapshot: true, want: fs.ErrNotExist},
		"snapshot directory":          {snapshot: true, make: mkdir, want: ErrForeign},
		"snapshot empty":              {snapshot: true, make: func(t *testing.T, p string) { write(t, p, nil) }, want: ErrForeign},
		"snapshot empty, allowed":     {snapshot: true, noTrailer: true, make: func(t *testing.T, p string) { write(t, p, nil) }, want: ErrForeign},
		"snapshot text":               {snapshot: true, noTrailer: true, make: func(t *testing.T, p string) { write(t, p, []byte(strings.Repeat("text\n", 4096))) }, want: ErrForeign},
		"snapshot truncated":          {snapshot: true, make: func(t *testing.T, p string) { write(t, p, snapshotFile[:len(snapshotFile)/2]) }, want: ErrForeign, says: "cut off"},
		"snapshot truncated, allowed": {snapshot: true, noTrailer: true, make: func(t *testing.T, p string) { write(t, p, snapshotFile[:len(snapshotFile)/8192*4096]) }, want: ErrDamaged, says: "cut off"},
		"snapshot changed":            {snapshot: true, make: func(t *testing.T, p string) { write(t, p, flipped(snapshotFile, len(snapshotFile)/2)) }, want: ErrDamaged, says: "SHA-256"},
		"snapshot without trailer":    {snapshot: true, make: func(t *testing.T, p string) { write(t, p, snapshotFile[:len(snapshotFile)-32]) }, want: ErrForeign, says: "SHA-256"},
		"snapshot of something else": {snapshot: true, noTrailer: true, make: func(t *testing.T, p string) {
			db := must[*bolt.DB](t)(bolt.Open(p, 0o600, nil))
			_ = db.Close()
		}, want: ErrForeign, says: "buckets"},
		"snapshot in use": {snapshot: true, noTrailer: true, make: func(t *testing.T, p string) {
			db := must[*bolt.DB](t)(bolt.Open(p, 0o600, nil))
			t.Cleanup(func() { _ = db.Close() })
		}, want: ErrInUse},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, dir := filepath.Join(t.TempDir(), "src"), t.TempDir()
			if test.make != nil {
				test.make(t, src)
			}
			dst := filepath.Join(dir, "limpet.db")
			run := ImportKine
			if test.snapshot {
				run = ImportEtcdSnapshot
			}
			_, err := run(t.Context(), src, dst, Options{NoTrailer: test.noTrailer})
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), src) {
				t.Errorf("got %v, want %v with %q", err, test.want, test.says)
			}
			if left := files(t, dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestOverwritten: whatever page of a snapshot without a SHA-256 is damaged, the
// import fails or gives a datastore; it does not end the process.
func TestOverwritten(t *testing.T) {
	t.Parallel()
	good := makeSources(t)
	b := must[[]byte](t)(os.ReadFile(good.snapshot))
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	for page := 0; page < len(b)/4096; page += 7 {
		bad := b[: len(b)-32 : len(b)-32]
		bad = append([]byte(nil), bad...)
		for i := range 4096 {
			bad[page*4096+i] = byte(i * 7)
		}
		write(t, src, bad)
		_, err := ImportEtcdSnapshot(t.Context(), src, filepath.Join(dir, "dst"), Options{NoTrailer: true, Replace: true})
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrForeign) {
			t.Errorf("page %d: %v", page, err)
		}
	}
}

// operations are all that write a file from a source that is good.
func operations(s sources) map[string]func(context.Context, string, Options) (Report, error) {
	return map[string]func(context.Context, string, Options) (Report, error){
		"ImportKine": func(ctx context.Context, dst string, o Options) (Report, error) {
			return ImportKine(ctx, s.kine, dst, o)
		},
		"ImportEtcdSnapshot": func(ctx context.Context, dst string, o Options) (Report, error) {
			return ImportEtcdSnapshot(ctx, s.snapshot, dst, o)
		},
		"ExportKine": func(ctx context.Context, dst string, o Options) (Report, error) {
			return ExportKine(ctx, s.store, dst, o)
		},
		"ExportEtcdSnapshot": func(ctx context.Context, dst string, o Options) (Report, error) {
			return ExportEtcdSnapshot(ctx, s.store, dst, o)
		},
	}
}

func TestDestinationExists(t *testing.T) {
	t.Parallel()
	for name, run := range operations(makeSources(t)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			dst := filepath.Join(dir, "dst.db")
			write(t, dst, []byte("old"))
			write(t, dst+"-wal", []byte("wal"))
			before := files(t, dir)
			if _, err := run(t.Context(), dst, Options{}); !errors.Is(err, ErrExists) || !maps.Equal(files(t, dir), before) {
				t.Errorf("got %v, files %v", err, files(t, dir))
			}
			var kept []string
			for range 3 { // within a second
				report, err := run(t.Context(), dst, Options{Replace: true})
				if err != nil {
					t.Fatal(err)
				}
				kept = append(kept, report.Kept)
			}
			if b, err := os.ReadFile(kept[0]); err != nil || string(b) != "old" {
				t.Errorf("%q, %v is kept", b, err)
			}
			if b, err := os.ReadFile(kept[0] + "-wal"); err != nil || string(b) != "wal" {
				t.Errorf("%q, %v is kept", b, err)
			}
			after := files(t, dir)
			delete(after, "dst.db.lock")
			if len(after) != 5 || exists(dst+"-wal") || !exists(kept[1]) || !exists(kept[2]) {
				t.Errorf("files %v, kept %v", after, kept)
			}
			if info, err := os.Stat(dst); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}

			mkdir(t, filepath.Join(dir, "dir"))
			if _, err := run(t.Context(), filepath.Join(dir, "dir"), Options{Replace: true}); !errors.Is(err, ErrExists) {
				t.Errorf("over a directory: %v", err)
			}
			if _, err := run(t.Context(), filepath.Join(dir, "no", "dst"), Options{}); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("in no directory: %v", err)
			}
		})
	}
}

func TestDestinationInUse(t *testing.T) {
	t.Parallel()
	s := makeSources(t)
	for _, name := range []string{"ImportKine", "ImportEtcdSnapshot"} {
		before := files(t, filepath.Dir(s.limpet))
		_, err := operations(s)[name](t.Context(), s.limpet, Options{Replace: true})
		if !errors.Is(err, sqlog.ErrInUse) || !maps.Equal(files(t, filepath.Dir(s.limpet)), before) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	for name, run := range operations(makeSources(t)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			dst := filepath.Join(dir, "dst.db")
			write(t, dst, []byte("old"))
			for after := int64(0); after <= 3000; after += 1000 { // 0 is before it begins
				ctx, cancel := context.WithCancel(t.Context())
				if after == 0 {
					cancel()
				}
				_, err := run(ctx, dst, Options{Replace: true, Progress: func(done, total int64) {
					if done >= after {
						cancel()
					}
				}})
				cancel()
				if !errors.Is(err, context.Canceled) {
					t.Errorf("after %d: %v", after, err)
				}
				if left := files(t, dir); len(left) != 1 || left["dst.db"] != "old" {
					t.Errorf("after %d: files %v", after, left)
				}
			}
		})
	}
}

func TestNoSpace(t *testing.T) {
	t.Parallel()
	values := make([][]byte, 20)
	for i := range values {
		values[i] = big()
		values[i][0] = byte(i)
	}
	for name, run := range operations(makeSources(t, values...)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := testenv.SmallDisk(t, 8<<20)
			dst := filepath.Join(dir, "dst.db")
			write(t, dst, []byte("old"))
			_, err := run(t.Context(), dst, Options{Replace: true})
			if !errors.Is(err, sqlog.ErrNoSpace) || !strings.Contains(err.Error(), "free space") {
				t.Errorf("got %v", err)
			}
			if left := files(t, dir); len(left) != 1 || left["dst.db"] != "old" {
				t.Errorf("files %v", left)
			}
		})
	}
}

func TestEtcdUnreachable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := ImportEtcd(ctx, EtcdConfig{Endpoints: []string{"http://127.0.0.1:1"}}, filepath.Join(dir, "dst"), Options{})
	if !errors.Is(err, context.Canceled) || len(files(t, dir)) > 0 {
		t.Errorf("got %v, files %v", err, files(t, dir))
	}
}

// TestGapsAndRepeats: rows that kine makes for itself, two of them where older
// versions made two, a database without its indices, and one row of no key.
func TestGapsAndRepeats(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "kine.db"), filepath.Join(dir, "limpet.db")
	kineSQL(t, src, kineTable,
		"INSERT INTO kine VALUES(1, 'compact_rev_key', 1, 0, 0, 0, 0, '', NULL)",
		"INSERT INTO kine VALUES(2, '/a', 1, 0, 0, 0, 0, 'x', NULL)",
		"INSERT INTO kine VALUES(3, 'compact_rev_key', 1, 0, 0, 2, 0, '', NULL)",
		"INSERT INTO kine VALUES(4, 'gap-4', 0, 1, 0, 0, 0, NULL, NULL)",
		"INSERT INTO kine VALUES(5, '/a', 0, 0, 2, 2, 10, 'y', 'x')",
		"INSERT INTO kine VALUES(6, '/b', 1, 0, 0, 0, -3, NULL, NULL)",
		"INSERT INTO kine VALUES(7, 'compact_rev_key_apiserver', 1, 0, 0, 0, 0, '', NULL)",
		"INSERT INTO kine VALUES(8, NULL, 1, 0, 0, 0, 0, NULL, NULL)",
		"INSERT INTO kine VALUES(9, '/c', 0, 1, 9, 0, 0, NULL, NULL)",
		"INSERT INTO kine VALUES(12, 'gap-12', 0, 1, 0, 0, 0, NULL, NULL)")
	report, err := ImportKine(t.Context(), src, dst, Options{Margin: -1})
	if err != nil {
		t.Fatal(err)
	}
	if report.SourceRevision != 12 || report.Revision != 13 || report.Keys != 2 || report.Dropped != 4 || report.Leases != 1 {
		t.Errorf("report %+v", report)
	}
	compare(t, dumpStore(t, openStore(t, dst)), map[string]entry{
		"/a": {value: "y", mod: 5, create: 2, version: 2, lease: 1, ttl: 10},
		"/b": {mod: 6, create: 6, version: 1},
	})
}
