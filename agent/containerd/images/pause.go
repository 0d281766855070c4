package images

import (
	"context"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/errdefs"
)

// payloadSource marks the images that the binary itself brings; no file in the
// images directory can have a name with a slash.
const payloadSource = "payload/"

// EnsureBuiltin makes sure that the image ref is there and unpacked; if not, it is
// imported from archive. It takes a few milliseconds when there is nothing to do.
func (i *Importer) EnsureBuiltin(ctx context.Context, ref, archive string) error {
	store := i.client.ImageService()
	img, err := store.Get(ctx, ref)
	if err == nil {
		if err := i.ready(ctx, containerd.NewImage(i.client, img)); err == nil {
			return nil
		} // else something of it is missing: import it again
	} else if !errdefs.IsNotFound(err) {
		return fmt.Errorf("look for image %s: %w", ref, err)
	}
	names, err := i.ImportArchive(ctx, archive)
	if err != nil {
		return fmt.Errorf("import %s: %w", archive, err)
	}
	if _, ok := names[ref]; !ok {
		return fmt.Errorf("import %s: it has %v, not %s", archive, sortedKeys(names), ref)
	}
	if img, err = store.Get(ctx, ref); err != nil {
		return fmt.Errorf("look for image %s: %w", ref, err)
	}
	return setLabels(ctx, store, img, map[string]string{sourceLabel: payloadSource + ref})
}
