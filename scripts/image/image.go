package main

import (
	"archive/tar"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// builder makes the images of one version.
type builder struct {
	dockerfile      string // its text
	version, commit string
	tag             name.Tag
	context         string // directory
	created         time.Time
	level           int // of gzip
}

// image is that of an architecture, whose root directory is in the context.
func (b *builder) image(arch string) (v1.Image, error) {
	r, err := readDockerfile(b.dockerfile, map[string]string{"TARGETARCH": arch, "VERSION": b.version, "COMMIT": b.commit})
	if err != nil {
		return nil, err
	}
	img := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	for _, dir := range r.copies {
		layer, err := b.layer(filepath.Join(b.context, dir))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		history := v1.History{Created: v1.Time{Time: b.created}, CreatedBy: "COPY " + dir + " /"}
		if img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: history, MediaType: types.OCILayer}); err != nil {
			return nil, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = "linux", arch, variant(arch)
	config.Created, config.Config = v1.Time{Time: b.created}, r.config
	if img, err = mutate.ConfigFile(img, config); err != nil {
		return nil, err
	}
	return mutate.Annotations(img, b.annotations(r.config.Labels)).(v1.Image), nil
}

// annotations are the labels, where those look who read manifests only.
func (b *builder) annotations(labels map[string]string) map[string]string {
	out := map[string]string{"org.opencontainers.image.created": b.created.Format(time.RFC3339)}
	for k, v := range labels {
		out[k] = v
	}
	return out
}

func variant(arch string) string {
	return map[string]string{"arm": "v7", "arm64": "v8"}[arch]
}

// layer packs a directory: sorted, everything root's, with one time.
func (b *builder) layer(dir string) (v1.Layer, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(b.pack(w, dir)) }()
		return r, nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(b.level), tarball.WithCompressedCaching)
}

func (b *builder) pack(w io.Writer, dir string) error {
	out := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		return b.entry(out, file, path.Clean(filepath.ToSlash(name)), d)
	})
	if err != nil {
		return err
	}
	return out.Close()
}

func (b *builder) entry(out *tar.Writer, file, name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	target := ""
	if d.Type()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(file); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	// Only what counts: no owner and no time of this machine.
	*header = tar.Header{
		Typeflag: header.Typeflag, Name: name, Linkname: target, Mode: header.Mode & 0o7777, Size: header.Size,
		ModTime: b.created, Format: tar.FormatPAX,
	}
	if d.IsDir() {
		header.Name += "/"
	}
	if d.Type()&fs.ModeSymlink != 0 {
		header.Mode = 0o777
	}
	if err := out.WriteHeader(header); err != nil || !d.Type().IsRegular() {
		return err
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(out, in)
	return err
}

// write makes the archives, one for each architecture, for docker load and for limpet's
// images directory, and an OCI layout with all of them.
func (b *builder) write(out string, archs []string) error {
	slices.Sort(archs)
	var all []mutate.IndexAddendum
	for _, arch := range archs {
		img, err := b.image(arch)
		if err != nil {
			return fmt.Errorf("%s: %w", arch, err)
		}
		file := filepath.Join(out, "limpet-image-"+arch+".tar")
		if err := tarball.WriteToFile(file+".part", b.tag, img); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if err := os.Rename(file+".part", file); err != nil {
			return err
		}
		all = append(all, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: arch, Variant: variant(arch)},
		}})
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), all...)
	dir := filepath.Join(out, "oci")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	return p.AppendIndex(index, layout.WithAnnotations(map[string]string{
		// containerd has the short name of the default registry.
		"io.containerd.image.name":          strings.Replace(b.tag.Name(), "index.docker.io/", "docker.io/", 1),
		"org.opencontainers.image.ref.name": b.tag.TagStr(),
	}))
}

// imageTag makes a tag of a version: one of semantic versions can have a +.
func imageTag(repository, version string) (name.Tag, error) {
	return name.NewTag(repository + ":" + strings.ReplaceAll(version, "+", "-"))
}

// gzipLevel is checked here, since the layer would fail late.
func gzipLevel(n int) error {
	if n < gzip.BestSpeed || n > gzip.BestCompression {
		return fmt.Errorf("-level goes from %d to %d", gzip.BestSpeed, gzip.BestCompression)
	}
	return nil
}
