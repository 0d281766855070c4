package bundle

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"aead.dev/minisign"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Recipe says what a bundle is made of.
type Recipe struct {
	// Images are references in registries, or paths of image archives (docker save or
	// an OCI layout; tar, gzip or zstd), all of whose images are taken.
	Images []string
	// Manifests are paths of YAML or JSON files.
	Manifests []string
	// Charts are rendered to one manifest each, named after the release.
	Charts []ChartSource
	// ImagesFromManifests adds the images that pods in the manifests, and in those of
	// the charts, name.
	ImagesFromManifests bool
	// Platform of the images, as in linux/arm64; empty: this machine's.
	Platform string
	// Name of the bundle; empty: the file's.
	Name string
	// Output is the path of the bundle. Blobs gather in Output.partial until it is
	// whole, so that a creation which was interrupted goes on where it was.
	Output string
	// SigningKey is the path of a minisign secret key without a password; empty:
	// the bundle is not signed.
	SigningKey string
	// Progress, if set, is told what has come.
	Progress func(what string, done, total int64)
	// Note, if set, gets what a person should know, a line at a time.
	Note func(text string)
}

// Create makes a bundle and returns its index.
func Create(ctx context.Context, r Recipe) (Index, error) {
	c := creator{Recipe: r, parts: map[string]part{}, images: map[string]Image{}, dir: r.Output + ".partial"}
	key, err := c.prepare(ctx)
	if err != nil {
		return Index{}, err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return Index{}, err
	}
	for _, source := range c.Images {
		if err := c.add(ctx, source); err != nil {
			_ = os.Remove(c.dir) // only if nothing has come: it stays for the next attempt
			return Index{}, err
		}
	}
	index := Index{Name: c.Name, Platform: c.Platform, Images: slices.Collect(maps.Values(c.images)), Charts: c.charts}
	if err := write(c.dir, c.Output, index, slices.Collect(maps.Values(c.parts)), key); err != nil {
		return Index{}, err
	}
	f, err := os.Open(c.Output)
	if err != nil {
		return Index{}, err
	}
	defer f.Close()
	b, err := Open(f, "")
	if err != nil {
		return Index{}, err
	}
	return b.Index, os.RemoveAll(c.dir)
}

type creator struct {
	Recipe
	dir     string
	matcher platforms.MatchComparer
	parts   map[string]part  // by path
	images  map[string]Image // by name
	charts  []Chart
	// namespaces are those that the manifests bring.
	namespaces []string
}

// prepare checks all that can be checked before the first byte is written.
func (c *creator) prepare(ctx context.Context) (*minisign.PrivateKey, error) {
	platform := platforms.DefaultSpec()
	if c.Platform != "" {
		var err error
		if platform, err = platforms.Parse(c.Platform); err != nil {
			return nil, err
		}
	}
	platform = platforms.Normalize(platform)
	c.Platform = platforms.Format(platform)
	c.matcher = platforms.Only(platform)
	if c.Name == "" {
		c.Name = nameOf(c.Output)
	}
	if !bundleName.MatchString(c.Name) {
		return nil, fmt.Errorf("the name %q must be of lower-case letters, digits, - and . (--name chooses another)", c.Name)
	}
	for _, path := range c.Manifests {
		if err := c.addManifest(path); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", path, err)
		}
	}
	for _, chart := range c.Charts {
		if err := c.addChart(ctx, chart); err != nil {
			return nil, fmt.Errorf("chart %s: %w", chart.Source, err)
		}
	}
	slices.SortFunc(c.charts, func(a, b Chart) int { return cmp.Compare(a.Manifest, b.Manifest) })
	slices.Sort(c.Images)
	c.Images = slices.Compact(c.Images)
	if len(c.Images)+len(c.Manifests)+len(c.Charts) == 0 {
		return nil, errors.New("nothing to put into it: name images, manifests or charts")
	}
	return c.key()
}

func (c *creator) key() (*minisign.PrivateKey, error) {
	if c.SigningKey == "" {
		return nil, nil
	}
	data, err := os.ReadFile(c.SigningKey)
	if err != nil {
		return nil, err
	}
	var key minisign.PrivateKey
	if err := key.UnmarshalText(data); err != nil {
		return nil, fmt.Errorf("signing key %s: %w (it must be a minisign key without a password: minisign -G -W)", c.SigningKey, err)
	}
	return &key, nil
}

func (c *creator) addManifest(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return err
	}
	return c.putManifest(filepath.Base(path), data)
}

// putManifest takes a manifest by its base name.
func (c *creator) putManifest(base string, data []byte) error {
	if len(data) > maxManifest {
		return fmt.Errorf("it has more than %d bytes", maxManifest)
	}
	if !manifestName.MatchString(base) {
		return errors.New("its name must be of letters, digits, dots, - and _, and end in .yaml, .yml or .json")
	}
	if _, twice := c.parts[manifestDir+base]; twice {
		return errors.New("another one has the same name")
	}
	found, err := contentOf(data)
	if err != nil {
		return err
	}
	if c.ImagesFromManifests {
		c.Images = append(c.Images, found.images...)
	}
	c.namespaces = append(c.namespaces, found.namespaces...)
	c.parts[manifestDir+base] = memory(manifestDir+base, data)
	return nil
}

// add the images of a source.
func (c *creator) add(ctx context.Context, source string) error {
	var all []found
	info, err := os.Stat(source)
	switch {
	case err == nil && info.Mode().IsRegular():
		archive, aerr := openArchive(source, c.dir)
		if aerr != nil {
			return fmt.Errorf("image archive %s: %w", source, aerr)
		}
		if archive.path != source {
			defer func() { _ = os.Remove(archive.path) }() // goes with the directory, too
		}
		if all, err = archive.images(c.matcher); err == nil && len(all) == 0 {
			err = errors.New("no image in it has a name: tag the images before saving them")
		}
		if err != nil {
			return fmt.Errorf("image archive %s: %w", source, err)
		}
	case strings.HasSuffix(source, ".tar"): // a slip of the finger should not go to a registry
		return fmt.Errorf("image archive %s: %w", source, cmp.Or(err, errors.New("not a regular file")))
	default:
		image, rerr := fromRegistry(ctx, source)
		if rerr != nil {
			return rerr
		}
		all = append(all, image)
	}
	for _, image := range all {
		if err := c.take(ctx, image); err != nil {
			return fmt.Errorf("image %s: %w", image.name, err)
		}
	}
	return nil
}

// take gets all blobs of an image that are not there yet.
func (c *creator) take(ctx context.Context, image found) error {
	target := image.target
	if old, twice := c.images[image.name]; twice && old.Digest != target.Digest.String() {
		return fmt.Errorf("two sources bring it, with different content: %s and %s", old.Digest, target.Digest)
	}
	next := []ocispec.Descriptor{target}
	for depth := 0; depth < 2; depth++ {
		desc := next[0]
		if desc.Size > maxImageJSON {
			return fmt.Errorf("its manifest has %d bytes; %d are allowed", desc.Size, maxImageJSON)
		}
		disk, err := c.get(ctx, image, desc)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(disk)
		if err != nil {
			return err
		}
		if next, err = children(desc, data, c.matcher); err != nil {
			return fmt.Errorf("%w %s", err, c.Platform)
		}
		if isManifest(desc.MediaType) {
			break
		}
	}
	for _, desc := range next {
		if _, err := c.get(ctx, image, desc); err != nil {
			return err
		}
	}
	c.images[image.name] = Image{Name: image.name, MediaType: target.MediaType, Digest: target.Digest.String(), Size: target.Size}
	return nil
}

// get a blob onto the disk, unless an earlier run did, and list it.
func (c *creator) get(ctx context.Context, image found, desc ocispec.Descriptor) (disk string, err error) {
	path, err := blobPath(desc)
	if err != nil {
		return "", err
	}
	disk = filepath.Join(c.dir, filepath.Base(path))
	if desc.Size < 0 || desc.Size > maxBlob {
		return "", fmt.Errorf("%s has %d bytes; %d are allowed", desc.Digest, desc.Size, int64(maxBlob))
	}
	if _, there := c.parts[path]; !there {
		// Files get their names only after their content was checked and synced.
		if info, serr := os.Stat(disk); serr != nil || info.Size() != desc.Size {
			if err := c.fetch(ctx, image, desc, disk); err != nil {
				return "", fmt.Errorf("get %s: %w", desc.Digest, err)
			}
		}
		c.parts[path] = part{File: File{Path: path, Size: desc.Size, SHA256: filepath.Base(path)}, disk: disk}
	}
	return disk, nil
}

func (c *creator) fetch(ctx context.Context, image found, desc ocispec.Descriptor, disk string) (err error) {
	r, err := image.fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer r.Close()
	out, err := os.CreateTemp(c.dir, "blob-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(out.Name()))
		}
	}()
	hash := sha256.New()
	counted := &counter{ctx: ctx, r: io.LimitReader(r, desc.Size+1), tell: func(done int64) {
		if c.Progress != nil {
			c.Progress(image.name, done, desc.Size)
		}
	}}
	n, err := io.Copy(io.MultiWriter(out, hash), counted)
	if err == nil && (n != desc.Size || hex.EncodeToString(hash.Sum(nil)) != desc.Digest.Encoded()) {
		err = fmt.Errorf("what came is not what its digest says (%d of %d bytes)", n, desc.Size)
	}
	if err == nil {
		err = out.Sync()
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	return os.Rename(out.Name(), disk)
}

// counter tells how much was read, and ends with its context.
type counter struct {
	ctx  context.Context
	r    io.Reader
	done int64
	tell func(done int64)
}

func (c *counter) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.done += int64(n)
	c.tell(c.done)
	return n, err
}
