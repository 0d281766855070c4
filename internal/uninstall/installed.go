package uninstall

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// usual are the names that install.sh gives, for a machine on which its record
// was lost. The script beside the binary says that there was an installation:
// a binary that a person has put there is that person's.
func usual(exists func(string) bool) []string {
	for _, dir := range []string{"/usr/local/bin", "/opt/bin"} {
		script := filepath.Join(dir, "limpet-uninstall.sh")
		if !exists(script) {
			continue
		}
		list := []string{
			filepath.Join(dir, "limpet"), filepath.Join(dir, "kubectl"), filepath.Join(dir, "ctr"),
			filepath.Join(dir, "limpet-killall.sh"), script,
		}
		for _, name := range usualServices() {
			list = append(list, "/etc/systemd/system/"+name+".service", "/etc/systemd/system/"+name+".service.env",
				"/etc/init.d/"+name, "/etc/conf.d/"+name)
		}
		return slices.DeleteFunc(list, func(path string) bool { return !exists(path) })
	}
	return nil
}

// removeInstalled removes one thing of the record. A directory goes only when
// nothing is left in it, a symbolic link only while it leads to limpet.
func removeInstalled(path string) error {
	if dir, ok := strings.CutSuffix(path, "/"); ok {
		_ = os.Remove(dir) // fails, rightly, while something is in it
		return nil
	}
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	if info.IsDir() {
		return fmt.Errorf("remove %s: is a directory, where install.sh put a file", path)
	}
	if target, err := os.Readlink(path); err == nil && filepath.Base(target) != "limpet" {
		return nil // somebody else's by now
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// rotated are the older parts of a log that install.sh recorded, which logrotate has
// made of it: limpet.log.1, limpet.log.2.gz.
func rotated(path string) []string {
	if !below(path, "/var/log") || strings.HasSuffix(path, "/") {
		return nil
	}
	parts, _ := filepath.Glob(path + ".[0-9]*") // fails for a bad pattern: nothing can have such a name
	return parts
}
