package snapshot

import (
	"bytes"
	"database/sql"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	_ "modernc.org/sqlite"

	"github.com/limpetio/limpet/datastore/sqlog"
)

// setCreated makes a closed database one that was made later than others.
func setCreated(t *testing.T, l *testLog) {
	t.Helper()
	l.close(t)
	db, err := sql.Open("sqlite", l.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "UPDATE meta SET value = value + 1000 WHERE name = 'created'"); err != nil {
		t.Fatal(err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	created := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, n := range []name{
		{"n", created, 0, 0},
		{"edge-1.example.com", created, sqlog.MaxRevision, 12},
		{"n-20300102-5", created, 7, 0},
		{strings.Repeat("x", maxNode), created, 1, 999999},
	} {
		if got, err := parseName(n.String()); err != nil || got != n {
			t.Errorf("%s: %+v, %v", n, got, err)
		}
		if len(n.String()) > 255 {
			t.Errorf("%s is too long", n)
		}
	}
	for in, want := range map[string]string{
		"edge-1": "edge-1", "Edge_1": "edge-1", "../../x": "x", "": "node", "ü": "node", "a/b": "a-b", strings.Repeat("y", 200): strings.Repeat("y", maxNode),
	} {
		if got := nodeName(in); got != want {
			t.Errorf("nodeName(%q) is %q, want %q", in, got, want)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("limpet-edge-1-20300102T030405Z-300.db.zst")
	f.Add("limpet-../x-20300102T030405Z-300-1.db.zst")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseName(s)
		if err != nil {
			return
		}
		if n.String() != s || filepath.Base(s) != s || strings.HasPrefix(s, ".") {
			t.Errorf("%q is %+v", s, n)
		}
	})
}

func TestOrder(t *testing.T) {
	t.Parallel()
	day := func(d int) time.Time { return time.Date(2030, 1, d, 0, 0, 0, 0, time.UTC) }
	mk := func(rev int64, d, again int) Info {
		return Info{Manifest: Manifest{Name: name{"n", day(d), rev, again}.String(), Revision: rev, Created: day(d)}}
	}
	want := []Info{mk(30, 1, 0), mk(20, 9, 0), mk(20, 8, 10), mk(20, 8, 9), mk(20, 8, 0), mk(10, 30, 0)}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, newestFirst)
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestExcess(t *testing.T) {
	t.Parallel()
	mk := func(node string, reason Reason, db, rev int64) Info {
		n := name{node, time.Unix(1e9, 0), rev, 0}
		return Info{Manifest: Manifest{Name: n.String(), Node: node, Reason: reason, Database: db, Revision: rev, Created: n.Created}}
	}
	broken := mk("a", Scheduled, 1, 1)
	broken.Damage = "yes"
	list := []Info{
		broken, mk("a", Scheduled, 1, 100), mk("a", Scheduled, 1, 90), mk("a", Scheduled, 1, 80), mk("a", Manual, 1, 70),
		mk("b", Scheduled, 1, 60), mk("a", Scheduled, 2, 5), mk("a", Scheduled, 2, 4), mk("a", Scheduled, 2, 3), mk("a", Upgrade, 1, 2),
	}
	for keep, want := range map[int][]int64{-1: nil, 0: nil, 1: {3, 4, 80, 90}, 2: {3, 80}, 3: nil} {
		var got []int64
		for _, i := range (Ring{Node: "a", Reason: Scheduled, Keep: keep}).excess(list) {
			got = append(got, i.Revision)
		}
		if !slices.Equal(got, want) {
			t.Errorf("keep %d: %v, want %v", keep, got, want)
		}
	}
}

func TestDamagedSnapshots(t *testing.T) {
	t.Parallel()
	src := mustSave(t, newLog(t, 200), t.TempDir(), SaveOptions{})
	good, err := os.ReadFile(src.Path)
	if err != nil {
		t.Fatal(err)
	}
	frame := 8 + int(good[4]) + int(good[5])<<8
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 0x10; return b }
	}
	other := func(change func(*Manifest)) func([]byte) []byte {
		return func(b []byte) []byte {
			m := src.Manifest
			change(&m)
			head, err := m.frame()
			if err != nil {
				t.Error(err)
			}
			return append(head, b[frame:]...)
		}
	}
	for name, tc := range map[string]struct {
		change func([]byte) []byte
		words  string
	}{
		"empty":              {func([]byte) []byte { return nil }, "too short"},
		"cut in manifest":    {func(b []byte) []byte { return b[:50] }, "cut off"},
		"manifest only":      {func(b []byte) []byte { return b[:frame] }, "holds 0 bytes"},
		"cut in the middle":  {func(b []byte) []byte { return b[:len(b)/2] }, "cannot be decompressed"},
		"cut at the end":     {func(b []byte) []byte { return b[:len(b)-1] }, "cannot be decompressed"},
		"magic":              {flip(1), "does not begin with a manifest"},
		"length":             {flip(5), ""},
		"bit in manifest":    {flip(60), "checksum"},
		"bit in zstd header": {flip(frame + 1), "cannot be decompressed"},
		"bit in content":     {flip(frame + (len(good)-frame)/2), ""},
		"bit in checksum":    {flip(len(good) - 1), "cannot be decompressed"},
		"something appended": {func(b []byte) []byte { return append(b, "tail"...) }, "cannot be decompressed"},
		"another appended":   {func(b []byte) []byte { return append(b, b...) }, "holds more"},
		"no manifest":        {func(b []byte) []byte { return b[frame:] }, "does not begin with a manifest"},
		"other content":      {func(b []byte) []byte { return append(b[:frame:frame], zstdOf(t, make([]byte, src.Size))...) }, "sha256"},
		"other keys":         {other(func(m *Manifest) { m.Keys++ }), "201 keys"},
		"other revision":     {other(func(m *Manifest) { m.Revision-- }), "revision 199"},
		"negative size":      {other(func(m *Manifest) { m.Size = -5 }), "negative"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path := filepath.Join(dir, src.Name)
			if err := os.WriteFile(path, tc.change(slices.Clone(good)), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Verify(t.Context(), path, "")
			assertError(t, err, ErrDamaged, tc.words, path)
			assertOnly(t, dir, src.Name)
			if list, err := List(dir); err != nil || len(list) != 1 || list[0].Revision == 0 {
				t.Errorf("List: %v, %v", list, err)
			}
		})
	}
}

func zstdOf(t *testing.T, data []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	return enc.EncodeAll(data, nil)
}

// What a snapshot of a later format is cannot be known: it is not damaged.
func TestLaterFormat(t *testing.T) {
	t.Parallel()
	m := Manifest{Format: format + 1, Name: "x"}
	head, err := m.frame()
	if err != nil {
		t.Fatal(err)
	}
	_, err = readManifest(bytes.NewReader(head))
	assertError(t, err, nil, "use the version that wrote it")
}

func TestVerifyOfWhatIsNoFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := Verify(t.Context(), dir, "")
	assertError(t, err, nil, "not a regular file")
	_, err = Verify(t.Context(), filepath.Join(dir, "missing"), "")
	assertError(t, err, os.ErrNotExist)
}

// Whatever is in the file: what is accepted has the size that its manifest says.
func FuzzUnpack(f *testing.F) {
	m := Manifest{Format: format, Size: 5, SHA256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}
	var good bytes.Buffer
	if err := pack(f.Context(), &good, m, strings.NewReader("hello")); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:20])
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		got, err := unpack(t.Context(), bytes.NewReader(data), &out)
		if err == nil && int64(out.Len()) != got.Size {
			t.Errorf("%d bytes, %d expected", out.Len(), got.Size)
		}
		_, _ = readManifest(io.LimitReader(bytes.NewReader(data), 30))
	})
}
