package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// namespace is the one of containerd in which the kubelet looks.
const namespace = "k8s.io"

// Labels of images: as image files get them (agent/containerd/images), but not
// the one by which those are unpinned when their file goes.
const (
	managedLabel = "io.cri-containerd.image"
	pinnedLabel  = "io.cri-containerd.pinned"
	fileLabel    = "limpet.io/image-file"
	bundleLabel  = "limpet.io/bundle" // the name of the bundle that brought it last
)

// leaseTime is how long the blobs of an interrupted installation are kept for
// the next attempt.
const leaseTime = 24 * time.Hour

// Target is where a bundle is installed.
type Target struct {
	// Socket of the running containerd.
	Socket string
	// ManifestsDir is a server's directory of manifests. Where it does not exist there
	// is no server, and the manifests are left out.
	ManifestsDir string
	// Progress, if set, is told what has been imported.
	Progress func(what string, done, total int64)
}

// Result tells what an installation did.
type Result struct {
	NewImages, SameImages       []string
	NewBlobs, SameBlobs         int
	NewBytes                    int64 // of the new blobs
	NewManifests, SameManifests []string
	// SkippedManifests are those for which there is no server here.
	SkippedManifests []string
	// StaleManifests were brought by another version of the bundle and are not in this
	// one. They are left alone.
	StaleManifests []string
}

// Install imports what is missing into the running containerd and puts the
// manifests where the server applies them. The bundle must have passed Verify.
// After a failure it may be called again, and goes on where it was.
func (b *Bundle) Install(ctx context.Context, t Target) (Result, error) {
	var result Result
	platform, err := platforms.Parse(b.Index.Platform)
	if err != nil {
		return result, err
	}
	if len(b.Index.Images) > 0 && !platforms.Default().Match(platform) {
		return result, fmt.Errorf("the bundle is for %s, and this machine is %s", b.Index.Platform, platforms.DefaultString())
	}
	if len(b.Index.Images) > 0 {
		if err := b.importImages(ctx, t, &result); err != nil {
			return result, err
		}
	}
	return result, b.putManifests(t.ManifestsDir, &result)
}

// importer imports the images of one bundle.
type importer struct {
	*Bundle
	client      *containerd.Client
	snapshotter string
	progress    func(what string, done, total int64)
	result      *Result
}

func (b *Bundle) importImages(ctx context.Context, t Target, result *Result) error {
	if _, err := os.Stat(t.Socket); err != nil {
		return fmt.Errorf("limpet's containerd does not run here: start limpet server or agent first: %w", err)
	}
	client, err := containerd.New(t.Socket, containerd.WithDefaultNamespace(namespace))
	if err != nil {
		return fmt.Errorf("connect to containerd: %w", err)
	}
	defer client.Close()
	i := &importer{Bundle: b, client: client, progress: t.Progress, result: result}
	if i.snapshotter, err = snapshotter(ctx, client); err != nil {
		return err
	}
	// The same lease for each attempt: nothing of one is collected before the next.
	lease := leases.Lease{ID: "limpet-bundle-" + b.Digest}
	_, err = client.LeasesService().Create(ctx, leases.WithID(lease.ID), leases.WithExpiration(leaseTime))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("create a lease: %w", err)
	}
	ctx = leases.WithLease(ctx, lease.ID)
	for _, img := range b.Index.Images {
		if err := i.image(ctx, img); err != nil {
			return fmt.Errorf("image %s: %w", img.Name, err)
		}
	}
	if err := client.LeasesService().Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete the lease: %w", err)
	}
	return nil
}

// snapshotter asks for the one that the kubelet's images are unpacked with; its
// directory is named io.containerd.snapshotter.v1.NAME.
func snapshotter(ctx context.Context, client *containerd.Client) (string, error) {
	conn, ok := client.Conn().(grpc.ClientConnInterface)
	if !ok {
		return "", fmt.Errorf("connect to containerd: a connection of type %T", client.Conn())
	}
	info, err := runtimeapi.NewImageServiceClient(conn).ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return "", fmt.Errorf("ask containerd for its snapshotter: %w", err)
	}
	for _, f := range info.GetImageFilesystems() {
		if _, name, ok := strings.Cut(filepath.Base(f.GetFsId().GetMountpoint()), "snapshotter.v1."); ok {
			return name, nil
		}
	}
	return "", errors.New("containerd does not say which snapshotter it uses")
}

func (i *importer) image(ctx context.Context, img Image) error {
	store := i.client.ImageService()
	old, err := store.Get(ctx, img.Name)
	exists := err == nil
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	record := images.Image{
		Name:   img.Name,
		Target: ocispec.Descriptor{MediaType: img.MediaType, Digest: digest.Digest(img.Digest), Size: img.Size},
		Labels: map[string]string{managedLabel: "managed", pinnedLabel: "pinned", bundleLabel: i.Index.Name},
	}
	if exists && old.Target.Digest == record.Target.Digest && i.unpacked(ctx, old) {
		i.result.SameImages = append(i.result.SameImages, img.Name)
		return i.label(ctx, old, record.Labels)
	}
	if err := i.content(ctx, img); err != nil {
		return err
	}
	if exists {
		if err := i.label(ctx, old, record.Labels); err != nil {
			return err
		}
		_, err = store.Update(ctx, record, "target")
	} else {
		_, err = store.Create(ctx, record)
	}
	if err != nil {
		return err
	}
	err = containerd.NewImage(i.client, record).Unpack(ctx, i.snapshotter, containerd.WithUnpackApplyOpts(diff.WithSyncFs(true)))
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	i.result.NewImages = append(i.result.NewImages, img.Name)
	return nil
}

// unpacked reports whether an image is ready for containers. Its layers need not
// be there any more then.
func (i *importer) unpacked(ctx context.Context, img images.Image) bool {
	ok, err := containerd.NewImage(i.client, img).IsUnpacked(ctx, i.snapshotter)
	return ok && err == nil // an error: a part is missing, and comes now
}

// label sets labels, and lets an image stay when the file that brought it goes.
func (i *importer) label(ctx context.Context, img images.Image, labels map[string]string) error {
	fields := []string{"labels." + managedLabel, "labels." + pinnedLabel, "labels." + bundleLabel}
	if from := img.Labels[fileLabel]; from != "" && !strings.HasPrefix(from, "payload/") {
		fields = append(fields, "labels."+fileLabel) // has no value below: removed
	}
	_, err := i.client.ImageService().Update(ctx, images.Image{Name: img.Name, Target: img.Target, Labels: labels}, fields...)
	return err
}

// content writes the blobs that are missing, and tells containerd which belong
// together, so that it keeps them.
func (i *importer) content(ctx context.Context, img Image) error {
	blobs, err := i.blobs(img)
	if err != nil {
		return err
	}
	store := i.client.ContentStore()
	for _, desc := range blobs {
		if err := i.blob(ctx, store, img.Name, desc); err != nil {
			return err
		}
	}
	mine := map[digest.Digest]bool{}
	for _, desc := range blobs {
		mine[desc.Digest] = true
	}
	handler := images.HandlerFunc(func(ctx context.Context, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		all, err := images.Children(ctx, store, desc)
		// Other platforms of an index are not in the bundle.
		return slices.DeleteFunc(all, func(d ocispec.Descriptor) bool { return !mine[d.Digest] }), err
	})
	return images.Walk(ctx, images.SetChildrenLabels(store, handler), blobs[0])
}

func (i *importer) blob(ctx context.Context, store content.Store, name string, desc ocispec.Descriptor) error {
	path, err := blobPath(desc)
	if err != nil {
		return err
	}
	_, err = store.Info(ctx, desc.Digest)
	there := err == nil
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	// For one that is there, this adds it to the lease and writes nothing.
	err = content.WriteBlob(ctx, store, "limpet-bundle-"+desc.Digest.String(), &told{
		SectionReader: i.open(path), tell: func(done int64) {
			if i.progress != nil {
				i.progress(name, done, desc.Size)
			}
		},
	}, desc)
	if err != nil {
		return fmt.Errorf("write %s: %w", desc.Digest, err)
	}
	if there {
		i.result.SameBlobs++
		return nil
	}
	i.result.NewBlobs++
	i.result.NewBytes += desc.Size
	return nil
}

// told tells where its reading stands. It can seek, so that a blob of which a part
// was written before the power failed is continued there.
type told struct {
	*io.SectionReader
	tell func(done int64)
}

func (t *told) Read(p []byte) (int, error) {
	n, err := t.SectionReader.Read(p)
	if at, serr := t.Seek(0, io.SeekCurrent); serr == nil {
		t.tell(at)
	}
	return n, err
}

func (b *Bundle) putManifests(dir string, result *Result) error {
	names := b.Index.Manifests()
	if len(names) == 0 {
		return nil
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		result.SkippedManifests = names
		return nil
	}
	dir = filepath.Join(dir, b.Index.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		f := b.files[manifestDir+name]
		data, err := io.ReadAll(b.open(f.Path))
		if err != nil {
			return fmt.Errorf("read %s: %w", f.Path, err)
		}
		if memory(f.Path, data).SHA256 != f.SHA256 { // the bundle was replaced since Verify
			return formatError("%s has changed", f.Path)
		}
		changed, err := atomicfile.WriteIfChanged(filepath.Join(dir, name), data, 0o600)
		if err != nil {
			return err
		}
		if changed {
			result.NewManifests = append(result.NewManifests, name)
		} else {
			result.SameManifests = append(result.SameManifests, name)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if manifestName.MatchString(e.Name()) && !slices.Contains(names, e.Name()) {
			result.StaleManifests = append(result.StaleManifests, filepath.Join(dir, e.Name()))
		}
	}
	return nil
}
