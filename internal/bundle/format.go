// Package bundle makes, checks and installs bundles: what one site needs, images
// and manifests, in one file that can be carried there.
//
// A bundle is a tar archive in the ustar format without compression (layers are
// compressed already), with exactly these files in this order:
//
//	sha256sums            one line: the checksum of bundle.json
//	sha256sums.minisig    optional: the minisign signature of sha256sums
//	bundle.json           Index: what follows, with sizes and checksums
//	blobs/sha256/…        manifests, configurations and layers of images, sorted
//	index.json            of an OCI image layout
//	manifests/…           for Kubernetes, sorted
//	oci-layout            so that other tools can read the images as well
//
// The same input gives the same bytes. A reader believes nothing that the
// checksums do not cover.
package bundle

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FormatVersion is the version of the format that this package writes and reads.
const FormatVersion = 1

// Names inside a bundle.
const (
	indexFile   = "bundle.json"
	layoutIndex = "index.json"
	layoutFile  = "oci-layout"
	blobDir     = "blobs/sha256/"
	manifestDir = "manifests/"
)

// Limits of what a bundle may hold, in bytes or pieces. What is read into memory
// is bounded by the first three.
const (
	maxIndex     = 8 << 20
	maxManifest  = 5 << 20 // as server/deploy reads
	maxImageJSON = 4 << 20 // an image's manifest or index, as containerd reads
	maxBlob      = 8<<30 - 1
	maxFiles     = 20000
	maxImages    = 2000
)

// ErrFormat is wrapped by all errors that say that a file is no proper bundle.
var ErrFormat = errors.New("not a proper bundle")

// Index is the content of bundle.json.
type Index struct {
	Version int `json:"version"` // FormatVersion
	// Name is the directory that the manifests get on a server.
	Name string `json:"name"`
	// Platform that the images are for, as in linux/arm64.
	Platform string  `json:"platform"`
	Images   []Image `json:"images"`
	// Charts are where some of the manifests come from, sorted by manifest.
	Charts []Chart `json:"charts,omitempty"`
	// Files are all others of the bundle, sorted by path.
	Files []File `json:"files"`
}

// Image is an image of a bundle.
type Image struct {
	Name      string `json:"name"` // in full: docker.io/library/busybox:1
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"` // sha256:… of its manifest or index
	Size      int64  `json:"size"`
}

// File is a file of a bundle.
type File struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Manifests are the base names of the manifests.
func (x Index) Manifests() []string {
	var names []string
	for _, f := range x.Files {
		if name, ok := strings.CutPrefix(f.Path, manifestDir); ok {
			names = append(names, name)
		}
	}
	return names
}

// Size of all files together in bytes.
func (x Index) Size() int64 {
	var n int64
	for _, f := range x.Files {
		n += f.Size
	}
	return n
}

var (
	bundleName   = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
	manifestName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,79}\.(yaml|yml|json)$`)
	sha256Hex    = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func formatError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// parseIndex reads and checks a bundle.json.
func parseIndex(data []byte) (Index, error) {
	var x Index
	dec := json.NewDecoder(bytes.NewReader(data))
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return x, formatError("%s: %v", indexFile, err)
	}
	if version.Version != FormatVersion {
		return x, formatError("its format has version %d, and this limpet reads %d", version.Version, FormatVersion)
	}
	dec.DisallowUnknownFields()
	if err := dec.Decode(&x); err != nil {
		return x, formatError("%s: %v", indexFile, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return x, formatError("%s has something behind its end", indexFile)
	}
	return x, x.check()
}

func (x Index) check() error {
	if !bundleName.MatchString(x.Name) {
		return formatError("its name %q is not of lower-case letters, digits, - and .", x.Name)
	}
	if _, err := platforms.Parse(x.Platform); err != nil || x.Platform == "" {
		return formatError("its platform %q is none", x.Platform)
	}
	if len(x.Files) > maxFiles || len(x.Images) > maxImages {
		return formatError("it has %d files and %d images; %d and %d are allowed", len(x.Files), len(x.Images), maxFiles, maxImages)
	}
	sizes := map[string]int64{}
	last := ""
	for _, f := range x.Files {
		if f.Path <= last {
			return formatError("%q is not in its place or there twice", f.Path)
		}
		if err := f.check(); err != nil {
			return err
		}
		last, sizes[f.Path] = f.Path, f.Size
	}
	last = ""
	for _, img := range x.Images {
		if img.Name <= last || img.Name != fullName(img.Name) {
			return formatError("the image name %q is not in full, not in its place or there twice", img.Name)
		}
		hexSum, ok := strings.CutPrefix(img.Digest, "sha256:")
		size, there := sizes[blobDir+hexSum]
		if !ok || !there || size != img.Size {
			return formatError("the manifest of %s is not in it", img.Name)
		}
		last = img.Name
	}
	return x.checkCharts()
}

func (x Index) checkCharts() error {
	manifests := map[string]bool{}
	for _, name := range x.Manifests() {
		manifests[name] = true
	}
	last := ""
	for _, c := range x.Charts {
		if c.Manifest <= last {
			return formatError("the chart of %q is not in its place or there twice", c.Manifest)
		}
		if err := c.check(manifests); err != nil {
			return err
		}
		last = c.Manifest
	}
	return nil
}

// check refuses every path that is not one of the few known forms, so that none
// can lead anywhere.
func (f File) check() error {
	if !sha256Hex.MatchString(f.SHA256) {
		return formatError("%q has no sha256", f.Path)
	}
	limit := int64(maxImageJSON)
	switch dir, base := path.Split(f.Path); {
	case f.Path == layoutFile || f.Path == layoutIndex:
	case dir == blobDir && base == f.SHA256:
		limit = maxBlob
	case dir == manifestDir && manifestName.MatchString(base):
		limit = maxManifest
	default:
		return formatError("%q has no place in a bundle", f.Path)
	}
	if f.Size < 0 || f.Size > limit {
		return formatError("%s has %d bytes; %d are allowed", f.Path, f.Size, limit)
	}
	return nil
}

// fullName completes an image reference; "" if it is none.
func fullName(name string) string {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return ""
	}
	return ref.String()
}

// Media types that an image's target can have, in OCI's and Docker's terms.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerList
}

func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}

// children are the blobs that a manifest needs, or the one manifest of an index
// that suits best.
func children(desc ocispec.Descriptor, data []byte, platform platforms.MatchComparer) ([]ocispec.Descriptor, error) {
	switch {
	case isManifest(desc.MediaType):
		var m ocispec.Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return nil, formatError("image manifest %s: %v", desc.Digest, err)
		}
		return append([]ocispec.Descriptor{m.Config}, m.Layers...), nil
	case isIndex(desc.MediaType):
		var index ocispec.Index
		if err := json.Unmarshal(data, &index); err != nil {
			return nil, formatError("image index %s: %v", desc.Digest, err)
		}
		var best *ocispec.Descriptor
		for _, m := range index.Manifests {
			if !isManifest(m.MediaType) || m.Platform == nil || !platform.Match(*m.Platform) {
				continue
			}
			if best == nil || platform.Less(*m.Platform, *best.Platform) {
				best = &m
			}
		}
		if best == nil {
			return nil, fmt.Errorf("image index %s has nothing for the platform", desc.Digest)
		}
		return []ocispec.Descriptor{*best}, nil
	default:
		return nil, formatError("%s is of the type %q, which is no image", desc.Digest, desc.MediaType)
	}
}

// blobPath is the path of a blob in a bundle.
func blobPath(desc ocispec.Descriptor) (string, error) {
	algorithm, hexSum, _ := strings.Cut(desc.Digest.String(), ":")
	if raw, err := hex.DecodeString(hexSum); err != nil || algorithm != "sha256" || len(raw) != 32 || !sha256Hex.MatchString(hexSum) {
		return "", formatError("%q is not a sha256 digest", desc.Digest)
	}
	return blobDir + hexSum, nil
}
