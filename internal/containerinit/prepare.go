package containerinit

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// needsPrivileges is what to do about most failures here.
const needsPrivileges = "limpet needs a privileged container: docker run --privileged …"

// prepare does what a machine does at boot.
func prepare(log *slog.Logger) error {
	// Volumes of pods reach containers that run already, as on a machine with systemd.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w; %s", err, needsPrivileges)
	}
	if err := clearRun("/run", "/proc/self/mountinfo"); err != nil {
		return err
	}
	if err := machineID("/etc/machine-id"); err != nil {
		return err
	}
	return prepareCgroups(log)
}

// machineID makes an identity, as a first boot does; the kubelet reports it. An image
// has none, since all containers would share it.
func machineID(file string) error {
	if data, err := os.ReadFile(file); err == nil && len(data) > 0 {
		return nil
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	if err := os.WriteFile(file, []byte(hex.EncodeToString(id)+"\n"), 0o444); err != nil {
		return fmt.Errorf("write the machine's identity: %w", err)
	}
	return nil
}

// clearRun empties /run, which is empty after a boot: in a container that is started
// again, sockets and the state of containers that are no more would be found there. A
// /run that is mounted is new (a tmpfs), or somebody else's.
func clearRun(run, mountinfo string) error {
	if err := os.MkdirAll(run, 0o755); err != nil {
		return err
	}
	data, err := os.ReadFile(mountinfo)
	if err != nil {
		return err
	}
	var below []string
	for _, m := range parseMounts(string(data)) {
		if m.point == run {
			return nil
		}
		if strings.HasPrefix(m.point, run+"/") {
			below = append(below, m.point)
		}
	}
	entries, err := os.ReadDir(run)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(run, e.Name())
		mounted := false
		for _, point := range below { // as secrets are, by some
			mounted = mounted || point == path || strings.HasPrefix(point, path+"/")
		}
		if mounted {
			continue
		}
		if err := os.RemoveAll(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("clear %s: %w", run, err)
		}
	}
	return nil
}
