package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"time"
)

// entry is one file of an image's root file system, owned by root.
type entry struct {
	mode fs.FileMode // type and permission bits; ModeDir, ModeSymlink or regular
	data []byte      // content of a regular file
	link string      // target of a symbolic link
}

// rootfs is a root file system in memory: slash-separated paths without a
// leading slash. Parent directories need not be given.
type rootfs map[string]entry

func (r rootfs) dir(p string, perm fs.FileMode)               { r[p] = entry{mode: fs.ModeDir | perm} }
func (r rootfs) file(p string, perm fs.FileMode, data []byte) { r[p] = entry{mode: perm, data: data} }
func (r rootfs) symlink(p, target string) {
	r[p] = entry{mode: fs.ModeSymlink | 0o777, link: target}
}

// tar packs the file system as an uncompressed layer. The bytes depend on the
// content alone: sorted paths, one fixed time, root as the only owner.
func (r rootfs) tar() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	all := r.withParents()
	paths := make([]string, 0, len(all))
	for p := range all {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	for _, p := range paths {
		e := all[p]
		if err := w.WriteHeader(e.header(p)); err != nil {
			return nil, fmt.Errorf("pack %s: %w", p, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", p, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("end of layer: %w", err)
	}
	return buf.Bytes(), nil
}

// withParents is r with a 0755 directory for every parent that r leaves out.
func (r rootfs) withParents() rootfs {
	all := rootfs{}
	for p, e := range r {
		all[p] = e
		for d := path.Dir(p); d != "."; d = path.Dir(d) {
			if _, given := r[d]; !given {
				all.dir(d, 0o755)
			}
		}
	}
	return all
}

func (e entry) header(p string) *tar.Header {
	h := &tar.Header{Name: p, ModTime: time.Unix(0, 0), Mode: int64(e.mode.Perm()), Format: tar.FormatPAX}
	if e.mode&fs.ModeSticky != 0 {
		h.Mode |= 0o1000
	}
	switch {
	case e.mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, p+"/"
	case e.mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
	default:
		h.Typeflag, h.Size = tar.TypeReg, int64(len(e.data))
	}
	return h
}
