package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// writeArchive brings the docker-archive of im to path and reports whether the
// file changed. The file is replaced by a rename: readers never see half of it.
func writeArchive(path string, im image) (bool, error) {
	data, err := archive(im, runtime.GOARCH)
	if err != nil {
		return false, err
	}
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) {
		return false, nil
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return false, fmt.Errorf("write archive: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return false, fmt.Errorf("replace archive: %w", err)
	}
	return true, nil
}

// archive is im as a docker-archive with one layer, for linux on arch.
func archive(im image, arch string) ([]byte, error) {
	tag, err := name.NewTag(im.ref, name.StrictValidation)
	if err != nil {
		return nil, fmt.Errorf("image name: %w", err)
	}
	packed, err := im.root.tar()
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(packed)), nil
	})
	if err != nil {
		return nil, fmt.Errorf("layer: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("append layer: %w", err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture, cf.Config = "linux", arch, im.config
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		return nil, fmt.Errorf("set image config: %w", err)
	}
	var out bytes.Buffer
	if err := tarball.MultiWrite(map[name.Tag]v1.Image{tag: img}, &out); err != nil {
		return nil, fmt.Errorf("pack archive: %w", err)
	}
	return out.Bytes(), nil
}
