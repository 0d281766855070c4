package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// cacheName is the file, in the images directory, that remembers what was
// imported, so that a start does not read gigabytes to find nothing new. If it is
// lost, every file is imported once more.
const cacheName = ".cache.json"

// stamp tells whether a file is still the one that was imported.
type stamp struct {
	Size  int64  `json:"size"`
	MTime int64  `json:"mtimeNanoseconds"`
	CTime int64  `json:"ctimeNanoseconds"`
	Inode uint64 `json:"inode"`
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{Size: info.Size(), MTime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.Inode, s.CTime = st.Ino, st.Ctim.Nano()
	}
	return s
}

func links(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink) //nolint:unconvert // its type differs between architectures
	}
	return 1
}

// cacheEntry is what the cache keeps of a file. Snapshotter is part of it,
// because another one needs its images unpacked again.
type cacheEntry struct {
	Stamp       stamp             `json:"stamp"`
	Snapshotter string            `json:"snapshotter"`
	Images      map[string]string `json:"images"` // name → digest
}

// loadCache marks the files as imported whose images containerd still has, with
// the digests they had.
func (i *Importer) loadCache(ctx context.Context) error {
	data, err := os.ReadFile(filepath.Join(i.opts.Dir, cacheName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var entries map[string]cacheEntry
	if err := json.Unmarshal(data, &entries); err != nil {
		return fmt.Errorf("cache %s: %w", cacheName, err)
	}
	list, err := i.client.ImageService().List(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	have := make(map[string]string, len(list))
	for _, img := range list {
		have[img.Name] = img.Target.Digest.String()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for name, e := range entries {
		if e.Snapshotter != i.opts.Snapshotter || !subset(e.Images, have) {
			continue
		}
		i.files[name] = &file{
			stamp: e.Stamp, images: e.Images,
			status: FileStatus{File: name, State: Imported, Since: time.Now(), Images: sortedKeys(e.Images)},
		}
	}
	return nil
}

// saveCache writes the cache, if it has changed.
func (i *Importer) saveCache() error {
	i.mu.Lock()
	entries := map[string]cacheEntry{}
	for name, f := range i.files {
		if f.status.State == Imported {
			entries[name] = cacheEntry{Stamp: f.stamp, Snapshotter: i.opts.Snapshotter, Images: f.images}
		}
	}
	i.mu.Unlock()
	path := filepath.Join(i.opts.Dir, cacheName)
	if len(entries) == 0 {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	data, err := json.MarshalIndent(entries, "", "  ") // maps are sorted by key
	if err != nil {
		return err
	}
	_, err = atomicfile.WriteIfChanged(path, append(data, '\n'), 0o600)
	return err
}

func subset(part, whole map[string]string) bool {
	for k, v := range part {
		if whole[k] != v {
			return false
		}
	}
	return true
}
