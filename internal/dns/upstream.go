package dns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// resolvedConf is where systemd-resolved writes the servers behind its stub.
	resolvedConf = "/run/systemd/resolve/resolv.conf"
	// settle is how long changes are collected before they are acted upon:
	// resolvconf and DHCP clients rewrite their file in several steps.
	settle = 100 * time.Millisecond
)

// resolvFiles names the files that say which servers the node asks.
type resolvFiles struct {
	conf     string // resolv.conf
	resolved string // what to read instead when conf names only systemd-resolved's stub
}

// servers reads the node's name servers. A missing file means none.
func (f resolvFiles) servers() ([]netip.Addr, error) {
	servers, err := readResolvConf(f.conf)
	if err != nil || !isResolvedStub(servers) {
		return servers, err
	}
	// Asking the real servers saves a hop and cannot loop through the stub.
	behind, err := readResolvConf(f.resolved)
	if err != nil || len(behind) == 0 {
		return servers, err
	}
	return behind, nil
}

func readResolvConf(name string) ([]netip.Addr, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read name servers of the node: %w", err)
	}
	return parseResolvConf(string(b)), nil
}

// watch calls changed when one of the files may have changed, until ctx is done.
// The directories are watched, because programs replace resolv.conf by rename or
// turn it into a link; the file too, because it may be a mount of its own.
func (f resolvFiles) watch(ctx context.Context, log *slog.Logger, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", f.conf, err)
	}
	defer w.Close()
	names := f.arm(w)
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-w.Events:
			if !ok {
				return nil
			}
			if ev.Has(fsnotify.Chmod) && ev.Op == fsnotify.Chmod || !slices.Contains(names, ev.Name) {
				continue
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(settle):
			}
			names = f.arm(w)
			changed()
		case err, ok := <-w.Errors:
			if !ok {
				return nil
			}
			log.Warn("Watch name servers of the node", "err", err)
			changed() // events may be lost
		}
	}
}

// arm watches what there is now and returns the names that matter.
func (f resolvFiles) arm(w *fsnotify.Watcher) []string {
	names := []string{f.conf, f.resolved}
	if target, err := filepath.EvalSymlinks(f.conf); err == nil {
		names = append(names, target)
	}
	for _, n := range names {
		for _, p := range []string{filepath.Dir(n), n} {
			if _, err := os.Stat(p); err == nil {
				_ = w.Add(p) // gone again: its directory will tell
			}
		}
	}
	return names
}
