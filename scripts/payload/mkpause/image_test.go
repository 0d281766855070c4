package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestPackIsAWholeImageForEachArchitecture(t *testing.T) {
	t.Parallel()
	for arch, variant := range map[string]string{"amd64": "", "arm64": "v8", "arm": "v7"} {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			archive, err := pack(arch, "limpet.io/pause:1", []byte("program"))
			if err != nil {
				t.Fatal(err)
			}
			again, err := pack(arch, "limpet.io/pause:1", []byte("program"))
			if err != nil || !bytes.Equal(archive, again) {
				t.Fatalf("the same input gave other bytes (err %v)", err)
			}
			files := untar(t, archive)

			var index v1.Index
			decode(t, files[v1.ImageIndexFile], &index)
			if len(index.Manifests) != 1 || index.Manifests[0].Annotations["io.containerd.image.name"] != "limpet.io/pause:1" ||
				index.Manifests[0].Annotations[v1.AnnotationRefName] != "1" {
				t.Fatalf("index: %+v", index)
			}
			var manifest v1.Manifest
			decode(t, blob(t, files, index.Manifests[0]), &manifest)
			var config v1.Image
			decode(t, blob(t, files, manifest.Config), &config)
			if config.OS != "linux" || config.Architecture != arch || config.Variant != variant || config.Config.Entrypoint[0] != "/pause" {
				t.Errorf("config: %+v", config)
			}
			layer := blob(t, files, manifest.Layers[0])
			if digest.FromBytes(layer) != config.RootFS.DiffIDs[0] {
				t.Error("the layer is not the one of the configuration")
			}
			if got := untar(t, layer)["pause"]; string(got) != "program" {
				t.Errorf("program in the layer: %q", got)
			}
		})
	}
}

func TestPackRefusesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ arch, ref string }{
		{"riscv64", "limpet.io/pause:1"},
		{"amd64", "limpet.io/pause"},
		{"amd64", "limpet.io:5000/pause"},
	} {
		if _, err := pack(c.arch, c.ref, nil); err == nil {
			t.Errorf("pack(%q, %q) gave no error", c.arch, c.ref)
		}
	}
}

func untar(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := tar.NewReader(bytes.NewReader(data))
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// blob returns the file of a descriptor after checking its size and digest.
func blob(t *testing.T, files map[string][]byte, desc v1.Descriptor) []byte {
	t.Helper()
	data, ok := files[blobPath(desc)]
	if !ok || int64(len(data)) != desc.Size || digest.FromBytes(data) != desc.Digest {
		t.Fatalf("blob %s is missing or differs from its descriptor", desc.Digest)
	}
	return data
}

func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}
