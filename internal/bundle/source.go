package bundle

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/platforms"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// found is an image that goes into a bundle, and how to get its blobs.
type found struct {
	name   string
	target ocispec.Descriptor
	fetch  func(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// fromRegistry finds an image with the credentials that docker and podman keep.
func fromRegistry(ctx context.Context, ref string) (found, error) {
	full := fullName(ref)
	if full == "" {
		return found{}, fmt.Errorf("%q is neither a file nor an image reference", ref)
	}
	parsed, err := name.ParseReference(full)
	if err != nil {
		return found{}, err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	top, err := remote.Get(parsed, options...)
	if err != nil {
		return found{}, fmt.Errorf("get %s: %w", full, err)
	}
	repository := parsed.Context()
	return found{name: full, target: descriptor(top.Descriptor), fetch: func(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
		options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
		ref := repository.Digest(desc.Digest.String())
		if !isIndex(desc.MediaType) && !isManifest(desc.MediaType) {
			layer, err := remote.Layer(ref, options...)
			if err != nil {
				return nil, err
			}
			return layer.Compressed()
		}
		if desc.Digest == digest.Digest(top.Digest.String()) {
			return io.NopCloser(bytes.NewReader(top.Manifest)), nil
		}
		got, err := remote.Get(ref, options...)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(got.Manifest)), nil
	}}, nil
}

func descriptor(d v1.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: string(d.MediaType), Digest: digest.Digest(d.Digest.String()), Size: d.Size}
}

// archive is an image archive on disk, uncompressed, with its table of contents.
type archive struct {
	path  string
	files map[string]place
}

// openArchive reads the contents of an archive; one that is compressed is
// unpacked into dir first.
func openArchive(path, dir string) (*archive, error) {
	path, err := plainTar(path, dir)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a := &archive{path: path, files: map[string]place{}}
	r := tar.NewReader(f)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		name := strings.TrimPrefix(header.Name, "./")
		a.files[name] = place{offset: offset, File: File{Path: name, Size: header.Size}}
	}
}

// plainTar returns the path of the archive without compression.
func plainTar(path, dir string) (string, error) {
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	buffered := bufio.NewReaderSize(in, 64<<10)
	magic, err := buffered.Peek(4)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	var r io.Reader
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		r, err = gzip.NewReader(buffered)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		var d *zstd.Decoder
		if d, err = zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(128<<20)); err == nil {
			defer d.Close()
			r = d
		}
	default:
		return path, nil
	}
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	out, err := os.CreateTemp(dir, "archive-*.tar")
	if err != nil {
		return "", err
	}
	if _, err = io.Copy(out, r); err != nil {
		err = fmt.Errorf("unpack %s: %w", path, err)
	}
	return out.Name(), errors.Join(err, out.Close())
}

// images of the archive for the platform.
func (a *archive) images(platform platforms.MatchComparer) ([]found, error) {
	if _, ok := a.files[layoutFile]; ok {
		return a.layoutImages()
	}
	return a.dockerImages(platform)
}

func (a *archive) layoutImages() ([]found, error) {
	f, ok := a.files[layoutIndex]
	if !ok || f.Size > maxImageJSON {
		return nil, fmt.Errorf("%s has no usable %s", a.path, layoutIndex)
	}
	r, err := a.open(f)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var index ocispec.Index
	if err := json.NewDecoder(r).Decode(&index); err != nil {
		return nil, fmt.Errorf("%s: %w", layoutIndex, err)
	}
	var all []found
	for _, m := range index.Manifests {
		full := fullName(m.Annotations[nameAnnotation])
		if ref := m.Annotations[ocispec.AnnotationRefName]; full == "" && strings.ContainsAny(ref, ":/") {
			full = fullName(ref)
		}
		if full == "" {
			continue
		}
		all = append(all, found{name: full, target: m, fetch: a.blob})
	}
	return all, nil
}

func (a *archive) blob(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	path, err := blobPath(desc)
	if err != nil {
		return nil, err
	}
	f, ok := a.files[path]
	if !ok {
		return nil, fmt.Errorf("%s is not in the archive", desc.Digest)
	}
	return a.open(f)
}

// open a file of the archive.
func (a *archive) open(p place) (io.ReadCloser, error) {
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, p.offset, p.Size), f}, nil
}

// dockerImages are those of docker save. Its layers have no compression; they get
// some, always the same.
func (a *archive) dockerImages(platform platforms.MatchComparer) ([]found, error) {
	opener := func() (io.ReadCloser, error) { return os.Open(a.path) }
	manifest, err := tarball.LoadManifest(opener)
	if err != nil {
		return nil, fmt.Errorf("neither an OCI image layout nor an archive of docker save: %w", err)
	}
	var all []found
	for _, m := range manifest {
		for _, tag := range m.RepoTags {
			f, err := dockerImage(opener, tag, platform)
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", tag, err)
			}
			all = append(all, f)
		}
	}
	return all, nil
}

func dockerImage(opener tarball.Opener, text string, platform platforms.MatchComparer) (found, error) {
	tag, err := name.NewTag(text)
	if err != nil {
		return found{}, err
	}
	img, err := tarball.Image(opener, &tag)
	if err != nil {
		return found{}, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return found{}, err
	}
	if p := config.Platform(); p != nil && !platform.Match(ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}) {
		return found{}, fmt.Errorf("it is for %s", p)
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return found{}, err
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return found{}, err
	}
	target := ocispec.Descriptor{MediaType: string(mediaType), Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}
	return found{name: fullName(text), target: target, fetch: func(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
		if desc.Digest == target.Digest {
			return io.NopCloser(bytes.NewReader(manifest)), nil
		}
		if config, err := img.RawConfigFile(); err != nil || digest.FromBytes(config) == desc.Digest {
			return io.NopCloser(bytes.NewReader(config)), err
		}
		hash, err := v1.NewHash(desc.Digest.String())
		if err != nil {
			return nil, err
		}
		layer, err := img.LayerByDigest(hash)
		if err != nil {
			return nil, err
		}
		return layer.Compressed()
	}}, nil
}
