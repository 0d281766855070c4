package agent

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// dropDamagedServing removes the kubelet's serving certificate if it cannot be
// read. The kubelet writes it without syncing it to disk, so that a power cut can
// leave an empty file, with which it would never start again; without one it
// asks for another.
func dropDamagedServing(dir string) error {
	current := filepath.Join(dir, "kubelet-server-current.pem")
	if _, err := os.Lstat(current); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(current, current); err == nil {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(dir, "kubelet-server-*.pem"))
	if err != nil {
		return fmt.Errorf("find the kubelet's serving certificate: %w", err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("remove the kubelet's damaged serving certificate: %w", err)
		}
	}
	return nil
}
