package uninstall

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/created"
)

const configDir = "/etc/limpet"

// DataDir is where the data is, for a command that was not told: a running
// limpet may have been, and its record says where.
func DataDir(configured string) string {
	if place, err := os.ReadFile(created.PlaceFile); err == nil && configured == config.DefaultDataDir {
		if dir := strings.TrimSpace(string(place)); filepath.IsAbs(dir) && exists(dir) {
			return dir
		}
	}
	return configured
}

// Uninstall is Kill, and then removes what limpet and install.sh have put on
// the machine, and sets the kernel's settings back. With KeepData the data
// directory and /etc/limpet stay, for the next installation.
func Uninstall(ctx context.Context, o Options) error {
	j, err := newJob(o)
	if err != nil {
		return err
	}
	if err := j.kill(ctx); err != nil {
		return fmt.Errorf("nothing was uninstalled yet: %w", err)
	}
	j.reasons = map[string]string{} // what kill failed at first, it did in the end
	j.restoreSysctls()
	j.removePaths()
	j.removeInstallation(ctx)
	if err := j.leftPaths(); err != nil {
		return err
	}
	if j.KeepData {
		j.say("limpet is uninstalled; its data in %s and its configuration in %s are kept", j.DataDir, configDir)
		return nil
	}
	j.say("limpet is uninstalled")
	return nil
}

func (j *job) restoreSysctls() {
	names := make([]string, 0, len(j.record.Sysctls))
	for name := range j.record.Sysctls {
		names = append(names, name)
	}
	restore := j.record.Restore(created.ReadSysctls(names))
	slices.Sort(names)
	// The one that switches forwarding off resets others below net/ipv4/conf:
	// the settings for all interfaces come before, in order of their names.
	for _, name := range names {
		value, ok := restore[name]
		if !ok {
			continue
		}
		j.say("Setting %s back to %s", strings.ReplaceAll(name, "/", "."), value)
		if err := created.WriteSysctl(name, value); err != nil {
			j.note("setting "+strings.ReplaceAll(name, "/", "."), err)
		}
	}
}

// whole are directories that hold nothing but limpet's, if limpet made them.
// Others that it made may be shared by now, and go only when they are empty.
func whole() []string {
	return []string{"/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers", "/run/limpet", configDir}
}

func (j *job) removePaths() {
	kept := func(path string) bool {
		return j.KeepData && (path == j.DataDir || below(path, j.DataDir) || path == configDir || below(path, configDir))
	}
	for _, path := range slices.Backward(j.record.Paths) {
		switch {
		case kept(path) || path == j.DataDir:
		case !exists(path):
		case slices.Contains(whole(), path):
			j.say("Removing %s", path)
			j.note(path, removeTree(path))
		case isDir(path):
			prune(path)
		default:
			j.say("Removing %s", path)
			j.note(path, removeTree(path))
		}
	}
	if j.KeepData {
		// What limpet made outside is gone, and the settings are as before:
		// the next start looks anew.
		keep := created.Record{Version: j.record.Version, Paths: slices.DeleteFunc(slices.Clone(j.record.Paths), func(p string) bool { return !kept(p) })}
		if exists(j.DataDir) {
			j.note(j.DataDir, keep.Save(j.DataDir))
		}
		return
	}
	for _, path := range []string{"/etc/limpet/limpet.yaml", "/etc/limpet/node", created.PlaceFile} {
		j.note(path, removeTree(path)) // where somebody else made /etc/limpet
	}
	j.removeData()
}

// removeData removes all that is in a data directory that limpet made. If it
// was there before limpet, it may hold more than limpet's.
func (j *job) removeData() {
	if !exists(j.DataDir) {
		return
	}
	j.say("Removing %s", j.DataDir)
	if slices.Contains(j.record.Paths, j.DataDir) {
		// What was installed is known until it is removed.
		j.note(j.DataDir, removeContents(j.DataDir, filepath.Base(created.InstalledFile)))
		_ = os.Remove(j.DataDir) // not if a disk is mounted there
		return
	}
	for _, name := range created.DataNames() {
		j.note(j.DataDir, removeTree(filepath.Join(j.DataDir, name)))
	}
}

func (j *job) removeInstallation(ctx context.Context) {
	if len(j.installed) == 0 {
		return
	}
	for _, name := range j.services {
		j.note("service "+name, j.disable(ctx, name))
	}
	for _, path := range slices.Backward(j.installed) {
		dir := strings.TrimSuffix(path, "/")
		if j.KeepData && (dir == j.DataDir || dir == configDir || below(dir, configDir)) {
			continue
		}
		if exists(dir) && dir == path {
			j.say("Removing %s", path)
		}
		j.note(path, removeInstalled(path))
		for _, part := range rotated(path) {
			j.note(part, removeInstalled(part))
		}
	}
	j.note(created.InstalledFile, removeInstalled(created.InstalledFile))
	if !j.KeepData && slices.Contains(j.record.Paths, j.DataDir) {
		_ = os.Remove(j.DataDir)
	}
	for _, path := range slices.Backward(j.installed) {
		j.note(path, removeDirectory(path)) // that of the record itself is empty only now
	}
	j.note("systemd", j.reload(ctx))
}

func removeDirectory(path string) error {
	if !strings.HasSuffix(path, "/") {
		return nil
	}
	return removeInstalled(path)
}

// leftPaths is a *Left of what could not be removed.
func (j *job) leftPaths() error {
	var things []string
	for thing, reason := range j.reasons {
		things = append(things, thing+": "+reason)
	}
	if len(things) == 0 {
		return nil
	}
	slices.Sort(things)
	return &Left{Things: things}
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}
