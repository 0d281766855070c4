package images

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
)

// Labels of containerd's CRI plugin (internal/cri/labels): managed images are
// shown to the kubelet, and its garbage collection leaves pinned ones alone.
const (
	managedLabel = "io.cri-containerd.image"
	managedValue = "managed"
	pinnedLabel  = "io.cri-containerd.pinned"
	pinnedValue  = "pinned"
	labelField   = "labels." // of an update
	// sourceLabel names the file that brought the image.
	sourceLabel = "limpet.io/image-file"
)

// ImportArchive imports one archive (docker save or an OCI layout; tar, gzip,
// zstd, bzip2), unpacks its images and pins them. It returns the images by name
// with their digests. Only content for this machine's platform is needed.
//
// Images that cannot be used here are reported in the error, together with the
// others in the result.
func (i *Importer) ImportArchive(ctx context.Context, path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	tar, err := decompress(f)
	if err != nil {
		return nil, err
	}
	defer func() { _ = tar.Close() }()

	ctx, done, err := i.client.WithLease(ctx) // nothing is collected until all is unpacked
	if err != nil {
		return nil, err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()
	opts := []containerd.ImportOpt{
		containerd.WithImportPlatform(platforms.Default()),
		containerd.WithSkipMissing(),
		containerd.WithImageRefTranslator(fullName),
		containerd.WithImageLabels(labelsFrom(path)),
	}
	if i.opts.DiscardUnpackedLayers {
		opts = append(opts, containerd.WithDiscardUnpackedLayers())
	}
	imported, err := i.client.Import(ctx, tar, opts...)
	if errors.Is(err, images.ErrEmptyWalk) || errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("there is no image for %s in it", platforms.DefaultString())
	}
	if err != nil {
		return nil, err
	}
	if len(imported) == 0 {
		return nil, errors.New("no image in it has a name: tag the images before saving them")
	}
	result := map[string]string{}
	var problems []error
	for _, img := range imported {
		if err := i.unpack(ctx, img); err != nil {
			problems = append(problems, err)
			continue
		}
		result[img.Name] = img.Target.Digest.String()
	}
	return result, errors.Join(problems...)
}

// unpack makes an image ready for containers. One that has nothing for this
// platform is removed again: to the kubelet it would look present.
func (i *Importer) unpack(ctx context.Context, img images.Image) error {
	err := i.ready(ctx, containerd.NewImage(i.client, img))
	if err == nil {
		return nil
	}
	if errdefs.IsNotFound(err) {
		if derr := i.client.ImageService().Delete(ctx, img.Name); derr != nil && !errdefs.IsNotFound(derr) {
			return fmt.Errorf("%s: %w", img.Name, derr)
		}
		return fmt.Errorf("%s: parts for %s are missing: %w", img.Name, platforms.DefaultString(), err)
	}
	return fmt.Errorf("unpack %s: %w", img.Name, err)
}

func (i *Importer) ready(ctx context.Context, img containerd.Image) error {
	unpacked, err := img.IsUnpacked(ctx, i.opts.Snapshotter)
	if err != nil || unpacked {
		return err
	}
	return img.Unpack(ctx, i.opts.Snapshotter, containerd.WithUnpackApplyOpts(diff.WithSyncFs(true)))
}

// importPath imports an archive, or pulls the images of a list.
func (i *Importer) importPath(ctx context.Context, path string) (map[string]string, error) {
	if kindOf(filepath.Base(path)) == archiveFile {
		return i.ImportArchive(ctx, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	refs, err := parseList(f)
	if err != nil {
		return nil, err
	}
	result := map[string]string{}
	var problems []error
	for _, ref := range refs {
		digest, err := i.pull(ctx, ref, path)
		if err != nil {
			problems = append(problems, fmt.Errorf("pull %s: %w", ref, err))
			continue
		}
		result[ref] = digest
	}
	return result, errors.Join(problems...)
}

// pull gets one image of a list, unless it is there already, and pins it.
func (i *Importer) pull(ctx context.Context, ref, path string) (digest string, err error) {
	store := i.client.ImageService()
	img, err := store.Get(ctx, ref)
	if errdefs.IsNotFound(err) {
		if err := i.opts.Pull(ctx, ref); err != nil {
			return "", err
		}
		img, err = store.Get(ctx, ref)
	}
	if err != nil {
		return "", err
	}
	return img.Target.Digest.String(), setLabels(ctx, store, img, labelsFrom(path))
}

// labelsFrom are the labels of an image that comes from the file at path.
func labelsFrom(path string) map[string]string {
	return map[string]string{managedLabel: managedValue, pinnedLabel: pinnedValue, sourceLabel: filepath.Base(path)}
}

// setLabels sets labels of an image, or removes those with an empty value, and
// leaves its others alone.
func setLabels(ctx context.Context, store images.Store, img images.Image, labels map[string]string) error {
	var fields []string
	set := map[string]string{}
	for k, v := range labels {
		if img.Labels[k] != v {
			fields = append(fields, labelField+k)
			set[k] = v
		}
	}
	if len(fields) == 0 {
		return nil
	}
	slices.Sort(fields)
	_, err := store.Update(ctx, images.Image{Name: img.Name, Target: img.Target, Labels: set}, fields...)
	return err
}

// settle unpins the images that no file brings any more, so that the kubelet may
// collect them when the disk is full, and writes the cache. After a failed
// import nothing is unpinned: its images are unknown.
func (i *Importer) settle(ctx context.Context) error {
	wanted, complete := i.wanted()
	if complete {
		store := i.client.ImageService()
		list, err := store.List(ctx)
		if err != nil {
			return err
		}
		for _, img := range list {
			if img.Labels[sourceLabel] == "" || wanted[img.Name] || strings.HasPrefix(img.Labels[sourceLabel], payloadSource) {
				continue
			}
			if err := setLabels(ctx, store, img, map[string]string{pinnedLabel: "", sourceLabel: ""}); err != nil && !errdefs.IsNotFound(err) {
				return fmt.Errorf("unpin %s: %w", img.Name, err)
			}
			i.opts.Logger.Info("image is not pinned any more: its file is gone", "image", img.Name)
		}
	}
	return i.saveCache()
}

// wanted are the images of all files; complete is false if some are unknown.
func (i *Importer) wanted() (names map[string]bool, complete bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	names, complete = map[string]bool{}, true
	for _, f := range i.files {
		complete = complete && f.status.State == Imported
		for n := range f.images {
			names[n] = true
		}
	}
	return names, complete
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
