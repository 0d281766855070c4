package helmchart

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Scheme is how references of charts in registries begin.
const Scheme = "oci://"

// contentType is what Helm stores a packaged chart as.
const contentType = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"

// Pull gets a chart from a registry, as in oci://ghcr.io/acme/pos:1.4.0 or with
// @sha256:… instead of the version, with the credentials that docker login and podman
// login stored.
func Pull(ctx context.Context, ref string) (*Chart, error) {
	parsed, err := parseRef(ref)
	if err != nil {
		return nil, err
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	image, err := remote.Image(parsed, options...)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", parsed, err)
	}
	manifest, err := image.Manifest()
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", parsed, err)
	}
	for _, desc := range manifest.Layers {
		if desc.MediaType == contentType {
			return fetch(image, desc)
		}
	}
	return nil, fmt.Errorf("%s is not a chart, but %s", parsed, manifest.Config.MediaType)
}

func parseRef(ref string) (name.Reference, error) {
	text, ok := strings.CutPrefix(ref, Scheme)
	if !ok {
		return nil, fmt.Errorf("a chart of a registry begins with %s", Scheme)
	}
	// A tag cannot have the + of a version; Helm stores it as _.
	if repository, tag, ok := strings.Cut(text, "+"); ok {
		text = repository + "_" + tag
	}
	parsed, err := name.ParseReference(text, name.StrictValidation)
	if err != nil && !strings.ContainsAny(text[strings.LastIndex(text, "/")+1:], ":@") {
		err = errors.New("a version is needed, as in oci://ghcr.io/acme/pos:1.4.0")
	}
	if err != nil {
		return nil, err
	}
	return parsed, nil
}

// fetch reads the packaged chart, which the registry's client compares with its digest.
func fetch(image v1.Image, desc v1.Descriptor) (*Chart, error) {
	if desc.Size > maxArchive {
		return nil, fmt.Errorf("%w: it has %d bytes; %d are allowed", errTooLarge, desc.Size, maxArchive)
	}
	layer, err := image.LayerByDigest(desc.Digest)
	if err != nil {
		return nil, err
	}
	r, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxArchive+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxArchive {
		return nil, errTooLarge
	}
	return unpack(data)
}
