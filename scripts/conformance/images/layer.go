package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Modes that fs.FileMode.Perm leaves out, as a tar archive has them.
const (
	setuid = 0o4000
	setgid = 0o2000
	sticky = 0o1000
)

// entry is one file of a layer, owned by root: a directory (path ends with a
// slash), a symbolic link (link is set) or a regular file.
type entry struct {
	path string
	mode int64 // permission bits with setuid, setgid and sticky
	link string
	data []byte
}

// pack makes a layer of entries, in their order. The same entries give the same
// bytes: one fixed time, root as the only owner.
func pack(entries []entry) (v1.Layer, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.path, Mode: e.mode, Linkname: e.link, Size: int64(len(e.data)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		switch {
		case e.path[len(e.path)-1] == '/':
			h.Typeflag = tar.TypeDir
		case e.link != "":
			h.Typeflag = tar.TypeSymlink
		default:
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", e.path, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", e.path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("end of layer: %w", err)
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	})
}

// program is an executable of this machine, at path in the image.
func program(path string, mode int64, file string) (entry, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return entry{}, fmt.Errorf("read program: %w", err)
	}
	return entry{path: path, mode: mode, data: data}, nil
}

// tree is every regular file below dir, at the root of the image.
func tree(dir string) ([]entry, error) {
	var entries []entry
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		entries = append(entries, entry{path: path.Clean(filepath.ToSlash(rel)), mode: 0o644, data: data})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read files of %s: %w", dir, err)
	}
	return entries, nil
}
