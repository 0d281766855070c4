package bundle

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"aead.dev/minisign"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/limpetio/limpet/internal/release"
)

// part is a file to be written: in memory, or from disk.
type part struct {
	File
	data []byte
	disk string
}

func memory(path string, data []byte) part {
	sum := sha256.Sum256(data)
	return part{File: File{Path: path, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}, data: data}
}

// write writes a bundle in the place of file, whole or not at all, by way of dir on
// the same file system. The index gets its Files from the parts.
func write(dir, file string, x Index, parts []part, key *minisign.PrivateKey) (err error) {
	layout, err := layoutParts(x)
	if err != nil {
		return err
	}
	parts = append(slices.Clone(parts), layout...)
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.Path, b.Path) })
	slices.SortFunc(x.Images, func(a, b Image) int { return cmp.Compare(a.Name, b.Name) })
	x.Version, x.Files = FormatVersion, nil
	for _, p := range parts {
		x.Files = append(x.Files, p.File)
	}
	if err := x.check(); err != nil {
		return err
	}
	index, err := json.MarshalIndent(x, "", " ")
	if err != nil {
		return err
	}
	if len(index) > maxIndex {
		return formatError("its index would have %d bytes; %d are allowed", len(index), maxIndex)
	}
	out, err := os.CreateTemp(dir, "bundle-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(out.Name()))
		}
	}()
	err = writeTar(out, append(head(index, key), parts...))
	if err == nil {
		err = out.Chmod(0o644)
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(out.Name(), file)
}

// head is what comes before the listed files.
func head(index []byte, key *minisign.PrivateKey) []part {
	indexPart := memory(indexFile, index)
	sums := fmt.Appendf(nil, "%s  %s\n", indexPart.SHA256, indexFile)
	parts := []part{memory(release.SumsFile, sums)}
	if key != nil {
		// No time in the comment: the same input gives the same bytes.
		signature := minisign.SignWithComments(*key, sums, "limpet bundle", "limpet bundle "+indexPart.SHA256)
		parts = append(parts, memory(release.SignatureFile, signature))
	}
	return append(parts, indexPart)
}

func writeTar(w io.Writer, parts []part) error {
	out := tar.NewWriter(w)
	for _, p := range parts {
		header := tar.Header{Typeflag: tar.TypeReg, Name: p.Path, Size: p.Size, Mode: 0o644, Format: tar.FormatUSTAR}
		if err := out.WriteHeader(&header); err != nil {
			return err
		}
		if err := p.copyTo(out); err != nil {
			return fmt.Errorf("%s: %w", p.Path, err)
		}
	}
	return out.Close()
}

func (p part) copyTo(w io.Writer) error {
	if p.disk == "" {
		_, err := io.Copy(w, bytes.NewReader(p.data))
		return err
	}
	f, err := os.Open(p.disk)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, hash), f); err != nil {
		return err
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != p.SHA256 {
		return fmt.Errorf("%s was damaged on this disk: remove it and try again", p.disk)
	}
	return nil
}

// layoutParts make the bundle an OCI image layout, too.
func layoutParts(x Index) ([]part, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for _, img := range x.Images {
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: img.MediaType, Digest: digest.Digest(img.Digest), Size: img.Size,
			Annotations: map[string]string{nameAnnotation: img.Name, ocispec.AnnotationRefName: img.Name},
		})
	}
	slices.SortFunc(index.Manifests, func(a, b ocispec.Descriptor) int {
		return cmp.Compare(a.Annotations[nameAnnotation], b.Annotations[nameAnnotation])
	})
	data, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	version, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	return []part{memory(layoutIndex, data), memory(layoutFile, version)}, nil
}

// nameAnnotation is where containerd looks for the full name of an image.
const nameAnnotation = "io.containerd.image.name"
