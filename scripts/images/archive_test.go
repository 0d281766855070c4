package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func sample() image {
	root := baseRoot()
	root.file("bin/tool", 0o755, []byte("\x7fELF"))
	root.symlink("bin/alias", "tool")
	return image{ref: "limpet.io/test/sample:1", file: "sample.tar", root: root,
		config: v1.Config{Entrypoint: []string{"/bin/tool"}, User: "65532:65532"}}
}

func TestArchiveHoldsTheImage(t *testing.T) {
	t.Parallel()
	data, err := archive(sample(), "arm64")
	if err != nil {
		t.Fatal(err)
	}
	img, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, nil)
	if err != nil {
		t.Fatalf("the archive cannot be read back: %v", err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cf.OS != "linux" || cf.Architecture != "arm64" || cf.Config.User != "65532:65532" || cf.Config.Entrypoint[0] != "/bin/tool" {
		t.Errorf("config is %+v", cf)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("layers: %v, %v", layers, err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]*tar.Header{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = h
	}
	for name, want := range map[string]tar.Header{
		"bin/":       {Typeflag: tar.TypeDir, Mode: 0o755},
		"bin/tool":   {Typeflag: tar.TypeReg, Mode: 0o755, Size: 4},
		"bin/alias":  {Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "tool"},
		"tmp/":       {Typeflag: tar.TypeDir, Mode: 0o1777},
		"etc/passwd": {Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(passwd))},
	} {
		h := got[name]
		if h == nil {
			t.Errorf("%s is missing", name)
			continue
		}
		if h.Typeflag != want.Typeflag || h.Mode != want.Mode || h.Size != want.Size || h.Linkname != want.Linkname || h.Uid != 0 {
			t.Errorf("%s is %+v, want %+v", name, h, want)
		}
	}
}

func TestArchiveIsDeterministic(t *testing.T) {
	t.Parallel()
	first, err := archive(sample(), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	second, err := archive(sample(), "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("the same image gave two different archives")
	}
}

func TestWriteArchiveKeepsAnEqualFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sample.tar")
	im := sample()
	for i, want := range []bool{true, false} {
		wrote, err := writeArchive(path, im)
		if err != nil || wrote != want {
			t.Errorf("write %d: changed %v, %v; want %v", i+1, wrote, err, want)
		}
	}
	im.config.User = "0"
	if wrote, err := writeArchive(path, im); err != nil || !wrote {
		t.Errorf("write of another image: changed %v, %v", wrote, err)
	}
}

func TestReadStaticRefuses(t *testing.T) {
	t.Parallel()
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{text, text + ".missing"} {
		if _, err := readStatic(path); err == nil {
			t.Errorf("readStatic(%s) accepted it", path)
		}
	}
	if _, err := readStatic("/bin/bash"); !errors.Is(err, errDynamic) {
		t.Errorf("a dynamically linked program: %v, want %v", err, errDynamic)
	}
}
