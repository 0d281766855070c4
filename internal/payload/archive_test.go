package payload

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
)

func TestNewArchive(t *testing.T) {
	t.Parallel()
	one, two := strings.Repeat("1", 64), strings.Repeat("2", 64)
	a, err := newArchive("data", one+"  payload.tar.zst\n"+two+"  MANIFEST\n")
	if err != nil || a.sum != one || a.manifestSum != two || a.data != "data" {
		t.Fatalf("%+v, %v", a, err)
	}
	for _, bad := range []string{"", one + "  payload.tar.zst\n", one + "  other\n", "abc  MANIFEST\n", one + " payload.tar.zst\n"} {
		if _, err := newArchive("", bad); err == nil {
			t.Errorf("no error for %q", bad)
		}
	}
}

// memorySink keeps files in memory and fails the test when the reader breaks its word.
type memorySink struct {
	t     testing.TB
	want  manifest
	files map[string]*bytes.Buffer
	total int64
}

func (s *memorySink) begin(m manifest, _ []byte) error {
	s.want, s.files = m, map[string]*bytes.Buffer{}
	return nil
}

func (s *memorySink) create(f manifestFile) (io.WriteCloser, error) {
	if !filepath.IsLocal(f.path) {
		s.t.Errorf("path %q leaves the directory", f.path)
	}
	if s.files[f.path] != nil {
		s.t.Errorf("path %q came twice", f.path)
	}
	s.files[f.path] = &bytes.Buffer{}
	return memoryFile{s, s.files[f.path]}, nil
}

type memoryFile struct {
	sink *memorySink
	buf  *bytes.Buffer
}

func (f memoryFile) Write(p []byte) (int, error) {
	if f.sink.total += int64(len(p)); f.sink.total > f.sink.want.total {
		f.sink.t.Errorf("%d bytes written, the manifest promises %d", f.sink.total, f.sink.want.total)
	}
	return f.buf.Write(p)
}

func (memoryFile) Close() error { return nil }

func TestReadTarRefuses(t *testing.T) {
	t.Parallel()
	files := small()
	m := manifestOf(files)
	head := entry{name: manifestName, mode: 0o644, data: m}
	with := func(change func([]entry) []entry) []entry {
		return change(append([]entry{head}, files...))
	}
	for name, c := range map[string]struct {
		entries []entry
		want    string
	}{
		"empty":                {nil, "first file"},
		"no manifest":          {files, "instead of MANIFEST"},
		"another manifest":     {with(func(e []entry) []entry { e[0].data += m; return e }), "sha256"},
		"a missing last file":  {with(func(e []entry) []entry { return e[:len(e)-1] }), "ends before pause.tar"},
		"a missing first file": {with(func(e []entry) []entry { return append(e[:1], e[2:]...) }), "the manifest lists bin/runc"},
		"a file more":          {with(func(e []entry) []entry { return append(e, entry{name: "x", mode: 0o755}) }), "does not list"},
		"parent path":          {with(func(e []entry) []entry { e[1].name = "../runc"; return e }), `"../runc"`},
		"other mode":           {with(func(e []entry) []entry { e[1].mode = 0o4755; return e }), "mode"},
		"other size":           {with(func(e []entry) []entry { e[1].data += "x"; return e }), "bytes"},
		"other content":        {with(func(e []entry) []entry { e[1].data = strings.Repeat("RUNC ", 50_000); return e }), "sha256"},
		"symbolic link":        {with(func(e []entry) []entry { e[1].kind, e[1].data = tar.TypeSymlink, "/etc/passwd"; return e }), "type"},
		"hard link":            {with(func(e []entry) []entry { e[1].kind, e[1].data = tar.TypeLink, "MANIFEST"; return e }), "type"},
		"device":               {with(func(e []entry) []entry { e[1].kind, e[1].data = tar.TypeChar, ""; return e }), "type"},
	} {
		err := packed(t, c.entries, m).extract(t.Context(), &memorySink{t: t})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v does not contain %q", name, err, c.want)
		}
	}
}

// A manifest with hostile paths and an honest checksum is refused before any file.
func TestHostileManifestIsRefused(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"../evil", "/evil", "bin/../../evil"} {
		a := archiveOf(t, []entry{{name: path, mode: 0o755, data: "x"}})
		sink := &memorySink{t: t}
		if err := a.extract(t.Context(), sink); err == nil || sink.files != nil {
			t.Errorf("%s: error %v, files %v", path, err, sink.files)
		}
	}
}

func TestDamagedArchiveIsTold(t *testing.T) {
	t.Parallel()
	good := archiveOf(t, small())
	if err := good.extract(t.Context(), &memorySink{t: t}); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(good.data); i += 1 + len(good.data)/200 {
		flipped := []byte(good.data)
		flipped[i] ^= 0x10
		for what, data := range map[string]string{"truncated": good.data[:i], "flipped": string(flipped)} {
			bad := good
			bad.data = data
			sink := &memorySink{t: t}
			if err := bad.extract(t.Context(), sink); !errors.Is(err, ErrDamaged) || sink.files != nil {
				t.Fatalf("%s at byte %d: %v", what, i, err)
			}
			// The checks behind the first one hold by themselves.
			bad.sum = sum([]byte(data))
			if err := bad.extract(t.Context(), &memorySink{t: t}); err == nil && !sameFiles(t, bad) {
				t.Fatalf("%s at byte %d was accepted", what, i)
			}
		}
	}
}

// sameFiles reports whether the archive gives all files of small: a flipped bit in a
// part that carries nothing (a reserved field) is no damage.
func sameFiles(t *testing.T, a archive) bool {
	t.Helper()
	sink := &memorySink{t: t}
	if err := a.extract(context.Background(), sink); err != nil {
		return false
	}
	for _, f := range small() {
		if got := sink.files[f.name]; got == nil || got.String() != f.data {
			return false
		}
	}
	return true
}

func FuzzReadTar(f *testing.F) {
	files := small()
	m := manifestOf(files)
	head := entry{name: manifestName, mode: 0o644, data: m}
	f.Add(tarOf(f, append([]entry{head}, files...)))
	f.Add(tarOf(f, []entry{head, {name: "../x", mode: 0o755, data: "x"}}))
	f.Add([]byte("MANIFEST"))
	f.Fuzz(func(t *testing.T, data []byte) {
		// The attacker knows the checksum of the manifest that he wrote.
		tr := tar.NewReader(bytes.NewReader(data))
		if h, err := tr.Next(); err != nil || h.Size > maxManifestBytes {
			return
		}
		own, err := io.ReadAll(tr)
		if err != nil {
			return
		}
		sink := &memorySink{t: t}
		if err := readTar(context.Background(), bytes.NewReader(data), sum(own), sink); err != nil {
			return
		}
		for _, want := range sink.want.files {
			if got := sink.files[want.path]; got == nil || int64(got.Len()) != want.size || sum(got.Bytes()) != want.sum {
				t.Errorf("%s was accepted but is not what the manifest lists", want.path)
			}
		}
	})
}
