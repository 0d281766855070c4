package main

import (
	"archive/tar"
	"bytes"
	_ "crypto/sha256" // registers the algorithm that digest uses
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// file is one regular file of a tar.
type file struct {
	name string
	mode int64
	data []byte
}

// pack returns an image archive with one layer, holding only /pause.
// The user is 65535, as in upstream's pause image.
func pack(arch, ref string, program []byte) ([]byte, error) {
	platform := v1.Platform{OS: "linux", Architecture: arch}
	switch arch {
	case "amd64":
	case "arm64":
		platform.Variant = "v8"
	case "arm":
		platform.Variant = "v7"
	default:
		return nil, fmt.Errorf("unknown architecture %q", arch)
	}
	colon := strings.LastIndex(ref, ":")
	if colon < 0 || strings.Contains(ref[colon:], "/") {
		return nil, fmt.Errorf("reference %q has no tag", ref)
	}

	layer, err := tarOf([]file{{"pause", 0o755, program}})
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	var blobs blobs
	layerDesc := blobs.add(v1.MediaTypeImageLayer, layer)
	configDesc, err := blobs.addJSON(v1.MediaTypeImageConfig, v1.Image{
		Platform: platform,
		Config:   v1.ImageConfig{User: "65535:65535", Entrypoint: []string{"/pause"}, WorkingDir: "/"},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDesc.Digest}},
	})
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	manifestDesc, err := blobs.addJSON(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    configDesc,
		Layers:    []v1.Descriptor{layerDesc},
	})
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	manifestDesc.Platform = &platform
	manifestDesc.Annotations = map[string]string{
		"io.containerd.image.name": ref, // containerd's name for the whole reference
		v1.AnnotationRefName:       ref[colon+1:],
	}
	index, err := indexFiles(manifestDesc, configDesc, layerDesc, ref)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return tarOf(append(index, blobs...))
}

// indexFiles returns the files outside blobs/: the OCI layout and index, and
// docker's manifest of the same blobs.
func indexFiles(manifest, config, layer v1.Descriptor, ref string) ([]file, error) {
	docker := []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{{blobPath(config), []string{ref}, []string{blobPath(layer)}}}
	var files []file
	for _, f := range []struct {
		name  string
		value any
	}{
		{v1.ImageLayoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion}},
		{v1.ImageIndexFile, v1.Index{
			Versioned: specs.Versioned{SchemaVersion: 2},
			MediaType: v1.MediaTypeImageIndex,
			Manifests: []v1.Descriptor{manifest},
		}},
		{"manifest.json", docker},
	} {
		data, err := json.Marshal(f.value)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", f.name, err)
		}
		files = append(files, file{f.name, 0o644, data})
	}
	return files, nil
}

// blobs are the content-addressed files of the layout, in the order added.
type blobs []file

func (b *blobs) add(mediaType string, data []byte) v1.Descriptor {
	desc := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	*b = append(*b, file{blobPath(desc), 0o644, data})
	return desc
}

func (b *blobs) addJSON(mediaType string, value any) (v1.Descriptor, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return b.add(mediaType, data), nil
}

func blobPath(desc v1.Descriptor) string {
	return "blobs/" + desc.Digest.Algorithm().String() + "/" + desc.Digest.Encoded()
}

func tarOf(files []file) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data)), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("tar header of %s: %w", f.name, err)
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, fmt.Errorf("tar data of %s: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("close tar: %w", err)
	}
	return buf.Bytes(), nil
}
