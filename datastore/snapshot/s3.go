package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/minio/minio-go/v7"
)

// Bucket keeps snapshots in an S3 bucket. Its methods may be called from any
// goroutine. Nothing in their errors is secret.
type Bucket struct {
	config S3Config
	client *minio.Client
}

// OpenBucket checks the configuration. It does not talk to the endpoint: that
// may be unreachable for now.
func OpenBucket(c S3Config) (*Bucket, error) {
	c, err := c.complete()
	if err == nil {
		var client *minio.Client
		if client, err = c.client(); err == nil {
			return &Bucket{config: c, client: client}, nil
		}
	}
	return nil, fmt.Errorf("S3 configuration: %w", c.withoutSecrets(err))
}

// String says where the bucket is.
func (b *Bucket) String() string { return b.config.String() }

func (b *Bucket) key(name string) string { return path.Join(b.config.Folder, name) }

// do runs an operation with its timeout, and says in its error what it was.
func (b *Bucket) do(ctx context.Context, op string, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, b.config.Timeout)
	defer cancel()
	err := fn(ctx)
	if err == nil {
		return nil
	}
	hint := ""
	switch minio.ToErrorResponse(err).Code {
	case minio.NoSuchBucket:
		hint = "; create the bucket, or correct its name"
	case minio.AccessDenied, minio.SignatureDoesNotMatch, minio.InvalidAccessKeyID:
		hint = "; check the access key, the secret key and what they may do"
	case minio.NoSuchKey:
		hint = "; `limpet snapshot list` shows what is there"
	case minio.RequestTimeTooSkewed:
		hint = "; set the clock of this machine"
	}
	return b.config.withoutSecrets(fmt.Errorf("%s %s: %w%s", op, b, err, hint))
}

// Upload copies a local snapshot into the bucket, where it appears when it is
// complete.
func (b *Bucket) Upload(ctx context.Context, file string) error {
	name := filepath.Base(file)
	if _, err := parseName(name); err != nil {
		return fmt.Errorf("upload snapshot: %w", err)
	}
	f, info, err := openRegular(file)
	if err != nil {
		return fmt.Errorf("upload snapshot: %w", err)
	}
	defer f.Close()
	return b.do(ctx, "upload snapshot "+name+" to", func(ctx context.Context) error {
		_, err := b.client.PutObject(ctx, b.config.Bucket, b.key(name), f, info.Size(), minio.PutObjectOptions{
			ContentType: "application/zstd",
			NumThreads:  1,        // one part of a large file in memory at a time
			PartSize:    16 << 20, // parts of it
			// The server compares it. SHA-256 is part of the signature only without TLS.
			SendContentMd5: true,
		})
		return err
	})
}

// List returns the snapshots in the bucket, newest first. It reads the head of
// each.
func (b *Bucket) List(ctx context.Context) (list []Info, err error) {
	err = b.do(ctx, "list snapshots in", func(ctx context.Context) error {
		prefix := b.config.Folder
		if prefix != "" {
			prefix += "/"
		}
		for o := range b.client.ListObjects(ctx, b.config.Bucket, minio.ListObjectsOptions{Prefix: prefix}) {
			if o.Err != nil {
				return o.Err
			}
			name := path.Base(o.Key)
			if _, err := parseName(name); err != nil || o.Key != b.key(name) {
				continue
			}
			info := Info{Bytes: o.Size}
			info.Manifest, err = b.manifest(ctx, o.Key)
			info.Name = name
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				info = withDamage(Info{Bytes: o.Size}, name, b.config.withoutSecrets(err))
			}
			list = append(list, info)
		}
		return nil
	})
	slices.SortFunc(list, newestFirst)
	return list, err
}

func (b *Bucket) manifest(ctx context.Context, key string) (Manifest, error) {
	var opts minio.GetObjectOptions
	if err := opts.SetRange(0, maxManifest+8-1); err != nil {
		return Manifest{}, err
	}
	o, err := b.client.GetObject(ctx, b.config.Bucket, key, opts)
	if err != nil {
		return Manifest{}, err
	}
	defer o.Close()
	return readManifest(o)
}

// Delete deletes a snapshot by its name.
func (b *Bucket) Delete(ctx context.Context, name string) error {
	if _, err := parseName(name); err != nil {
		return fmt.Errorf("delete snapshot in %s: %w", b, err)
	}
	return b.do(ctx, "delete snapshot "+name+" in", func(ctx context.Context) error {
		// S3 says nothing when there is no such object.
		if _, err := b.client.StatObject(ctx, b.config.Bucket, b.key(name), minio.StatObjectOptions{}); err != nil {
			return err
		}
		return b.client.RemoveObject(ctx, b.config.Bucket, b.key(name), minio.RemoveObjectOptions{})
	})
}

// Prune deletes the snapshots in the bucket that the ring has no room for, and
// returns their names. It is to be called after an Upload.
func (b *Bucket) Prune(ctx context.Context, r Ring) (deleted []string, err error) {
	if r.Keep <= 0 {
		return nil, nil
	}
	list, err := b.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range r.excess(list) {
		if err := b.Delete(ctx, i.Name); err != nil {
			return deleted, err
		}
		deleted = append(deleted, i.Name)
	}
	return deleted, nil
}

// Download copies a snapshot into dir, which it creates if necessary, and
// returns its path. What arrives is compared with its sha256.
func (b *Bucket) Download(ctx context.Context, name, dir string) (file string, err error) {
	if _, err := parseName(name); err != nil {
		return "", fmt.Errorf("download snapshot from %s: %w", b, err)
	}
	file = filepath.Join(dir, name)
	err = b.do(ctx, "download snapshot "+name+" from", func(ctx context.Context) error {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		return locked(ctx, dir, func() error { return noSpace(b.download(ctx, file)) })
	})
	if err != nil {
		return "", err
	}
	return file, nil
}

// download needs the directory's lock.
func (b *Bucket) download(ctx context.Context, file string) error {
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("%s: %w", file, fs.ErrExist)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	object, err := b.client.GetObject(ctx, b.config.Bucket, b.key(filepath.Base(file)), minio.GetObjectOptions{})
	if err != nil {
		return err
	}
	defer object.Close()
	stat, err := object.Stat()
	if err != nil {
		return err
	}
	if err := requireSpace(filepath.Dir(file), stat.Size); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(file), tempPrefix)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	f, err := os.OpenFile(filepath.Join(tmp, "zst"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := copyTo(ctx, f, object); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := unpack(ctx, f, io.Discard); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return publish(f.Name(), file)
}
