package payload

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// entry is one file of an archive made for a test.
type entry struct {
	name string
	mode int64
	data string
	kind byte // tar type, regular if 0
}

// small is a payload of the real one's shape.
func small() []entry {
	return []entry{
		{name: "bin/runc", mode: 0o755, data: strings.Repeat("runc ", 50_000)},
		{name: "bin/nft", mode: 0o755, data: "#!/bin/sh\nsleep 60\n"},
		{name: "lib/deep/er/libc.so", mode: 0o755, data: strings.Repeat("libc", 1000)},
		{name: "pause.tar", mode: 0o644, data: "image"},
	}
}

func sum(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

func manifestOf(entries []entry) string {
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&b, "%04o %d %s %s\n", e.mode, len(e.data), sum([]byte(e.data)), e.name)
	}
	return b.String()
}

func tarOf(t testing.TB, entries []entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		kind := e.kind
		if kind == 0 {
			kind = tar.TypeReg
		}
		h := &tar.Header{Typeflag: kind, Name: e.name, Mode: e.mode, Size: int64(len(e.data)), Format: tar.FormatUSTAR}
		if kind != tar.TypeReg {
			h.Size, h.Linkname = 0, e.data
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if kind == tar.TypeReg {
			if _, err := w.Write([]byte(e.data)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// packed makes an archive of exactly these tar entries, with honest checksums.
func packed(t testing.TB, entries []entry, manifest string) archive {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	data := w.EncodeAll(tarOf(t, entries), nil)
	return archive{data: string(data), sum: sum(data), manifestSum: sum([]byte(manifest))}
}

// archiveOf makes a good archive of these files.
func archiveOf(t testing.TB, files []entry) archive {
	t.Helper()
	m := manifestOf(files)
	return packed(t, append([]entry{{name: manifestName, mode: 0o644, data: m}}, files...), m)
}

// assertGood fails unless dataDir holds exactly the files of the archive.
func assertGood(t *testing.T, a archive, dataDir string, files []entry) {
	t.Helper()
	root := filepath.Join(dataDir, storeName, a.sum)
	if err := fullCheck(context.Background(), root, a.manifestSum); err != nil {
		t.Errorf("payload on disk: %v", err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(root, f.name))
		if err != nil || string(data) != f.data {
			t.Errorf("%s: %d bytes, %v", f.name, len(data), err)
		}
	}
	if to, err := os.Readlink(filepath.Join(dataDir, storeName, currentName)); err != nil || to != a.sum {
		t.Errorf("current points to %q, %v", to, err)
	}
	assertNoLeftovers(t, dataDir)
}

// assertNoLeftovers fails when the store has anything but payloads, link and lock.
func assertNoLeftovers(t *testing.T, dataDir string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dataDir, storeName))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if n := e.Name(); !isSHA256(n) && n != currentName && n != lockName {
			t.Errorf("left over: %s", n)
		}
	}
}
