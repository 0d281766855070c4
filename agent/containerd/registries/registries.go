package registries

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/limpetio/limpet/agent/containerd/inotify"
	"github.com/limpetio/limpet/internal/atomicfile"
)

// Options of the registries of a node.
type Options struct {
	// File is registries.yaml; it need not exist.
	File string
	// CertsDir is containerd's config_path.
	CertsDir string
	// DisableDefaultEndpoint keeps registries that have mirrors from being asked
	// themselves when all their mirrors failed.
	DisableDefaultEndpoint bool
	Logger                 *slog.Logger
}

// Registries keeps CertsDir as File says. containerd reads the directory at each
// pull, so that a change needs no restart.
type Registries struct {
	opts    Options
	gateway *gateway

	mu  sync.Mutex
	err error
}

// Start applies File once and fails if it is wrong; then Run follows its changes.
func Start(opts Options) (*Registries, error) {
	r := &Registries{opts: opts, gateway: newGateway(opts.Logger)}
	if _, err := r.apply(); err != nil {
		return nil, errors.Join(err, r.gateway.close())
	}
	return r, nil
}

// Run applies changes of the file until ctx is done. A file that is wrong is
// reported, and the settings stay as they were.
func (r *Registries) Run(ctx context.Context) error {
	defer func() { _ = r.gateway.close() }()
	err := inotify.File(ctx, r.opts.File, func() {
		changed, err := r.apply()
		r.mu.Lock()
		r.err = err
		r.mu.Unlock()
		switch {
		case err != nil:
			r.opts.Logger.Error("registries file is not used: the settings before stay", "error", err)
		case changed:
			r.opts.Logger.Info("registry settings changed", "file", r.opts.File)
		}
	})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("registries file: %w", err)
}

// Err is why the file as it is now is not used; nil if it is.
func (r *Registries) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// apply brings CertsDir and the gateway in line with the file.
func (r *Registries) apply() (changed bool, err error) {
	cfg, err := Load(r.opts.File)
	if err != nil {
		return false, err
	}
	p := planFor(cfg, !r.opts.DisableDefaultEndpoint)
	gw, err := r.gateway.use(p.routes)
	if err != nil {
		return false, err
	}
	files := map[string][]byte{}
	for dir, hosts := range p.hosts {
		files[dir] = hosts.render(gw)
	}
	return r.write(files)
}

// write makes CertsDir hold these files, by directory. Files of other origin stay.
func (r *Registries) write(files map[string][]byte) (changed bool, err error) {
	if err := os.MkdirAll(r.opts.CertsDir, 0o700); err != nil {
		return false, fmt.Errorf("registry settings: %w", err)
	}
	for dir, content := range files {
		path := filepath.Join(r.opts.CertsDir, dir, "hosts.toml")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return changed, fmt.Errorf("registry settings: %w", err)
		}
		if foreign(path) {
			r.opts.Logger.Warn("a hosts.toml of your own takes the place of registries.yaml", "file", path)
			continue
		}
		wrote, err := atomicfile.WriteIfChanged(path, content, 0o600)
		if err != nil {
			return changed, fmt.Errorf("registry settings: %w", err)
		}
		changed = changed || wrote
	}
	dirs, err := os.ReadDir(r.opts.CertsDir)
	if err != nil {
		return changed, fmt.Errorf("registry settings: %w", err)
	}
	for _, d := range dirs {
		path := filepath.Join(r.opts.CertsDir, d.Name(), "hosts.toml")
		if _, wanted := files[d.Name()]; wanted || !generated(path) {
			continue
		}
		if err := os.Remove(path); err != nil {
			return changed, fmt.Errorf("registry settings: %w", err)
		}
		// Certificates that someone put beside it keep the directory.
		if err := os.Remove(filepath.Dir(path)); err != nil && !notEmpty(filepath.Dir(path)) {
			return changed, fmt.Errorf("registry settings: %w", err)
		}
		changed = true
	}
	return changed, nil
}

func generated(path string) bool {
	b, err := os.ReadFile(path)
	return err == nil && bytes.HasPrefix(b, []byte(generatedMark))
}

func foreign(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist) && !generated(path)
}

func notEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) > 0
}
