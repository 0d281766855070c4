package created

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/limpetio/limpet/internal/atomicfile"
)

// RunDir is on a tmpfs: what is in it says that limpet has run since the boot.
const RunDir = "/run/limpet"

// PlaceFile says where the data directory is, if it is not at the default: the
// record is in there, and whoever uninstalls may not know.
const PlaceFile = configDir + "/data-dir"

const configDir = "/etc/limpet"

const (
	procSys    = "/proc/sys"
	cgroupRoot = "/sys/fs/cgroup"
)

func file(dataDir string) string { return filepath.Join(dataDir, "created.json") }

// Load reads the record; fs.ErrNotExist if there is none.
func Load(dataDir string) (Record, error) {
	data, err := os.ReadFile(file(dataDir))
	if err != nil {
		return Record{}, fmt.Errorf("read the record of what limpet created: %w", err)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("read %s: %w", file(dataDir), err)
	}
	if r.Version != version {
		return Record{}, fmt.Errorf("read %s: version %d is of another limpet", file(dataDir), r.Version)
	}
	return r, nil
}

// Save writes the record.
func (r Record) Save(dataDir string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("render the record of what limpet created: %w", err)
	}
	_, err = atomicfile.WriteIfChanged(file(dataDir), append(data, '\n'), 0o600)
	return err
}

// Look looks for the candidates. nft is the program that lists tables. Of what
// cannot be looked at, the map is nil and the error says why.
func Look(ctx context.Context, c Candidates, nft string) (Seen, error) {
	seen := Seen{Paths: map[string]bool{}, Sysctls: ReadSysctls(c.Sysctls)}
	for _, p := range c.Paths {
		_, err := os.Lstat(p)
		seen.Paths[p] = err == nil
	}
	links, linksErr := net.Interfaces()
	if linksErr == nil {
		seen.Interfaces = map[string]bool{}
		for _, l := range links {
			seen.Interfaces[l.Name] = true
		}
	}
	hierarchies, cgroupsErr := CgroupRoots()
	if cgroupsErr == nil {
		seen.Cgroups = map[string]bool{}
		for _, name := range c.Cgroups {
			seen.Cgroups[name] = slices.ContainsFunc(hierarchies, func(root string) bool {
				_, err := os.Stat(filepath.Join(root, name))
				return err == nil
			})
		}
	}
	tables, tablesErr := Tables(ctx, nft)
	if tablesErr == nil {
		seen.Tables = map[string]bool{}
		for _, t := range tables {
			seen.Tables[t] = true
		}
	}
	return seen, errors.Join(linksErr, cgroupsErr, tablesErr)
}

// ReadSysctls returns those of the settings that the kernel has.
func ReadSysctls(names []string) map[string]string {
	values := map[string]string{}
	for _, name := range names {
		if data, err := os.ReadFile(filepath.Join(procSys, name)); err == nil {
			values[name] = strings.TrimSpace(string(data))
		}
	}
	return values
}

// WriteSysctl sets one.
func WriteSysctl(name, value string) error {
	if err := os.WriteFile(filepath.Join(procSys, name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s back to %s: %w", strings.ReplaceAll(name, "/", "."), value, err)
	}
	return nil
}

// CgroupRoots are the mount points of the hierarchies: one with cgroup v2, one
// for each controller with v1.
func CgroupRoots() ([]string, error) {
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil {
		return []string{cgroupRoot}, nil
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil, fmt.Errorf("list control groups: %w", err)
	}
	var roots []string
	for _, e := range entries {
		if e.IsDir() { // the others are links to these
			roots = append(roots, filepath.Join(cgroupRoot, e.Name()))
		}
	}
	return roots, nil
}

// Tables lists the nftables tables, as "FAMILY NAME".
func Tables(ctx context.Context, nft string) ([]string, error) {
	out, err := exec.CommandContext(ctx, nft, "list", "tables").Output()
	if err != nil {
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && len(exit.Stderr) > 0 {
			err = errors.New(strings.TrimSpace(string(exit.Stderr)))
		}
		return nil, fmt.Errorf("list nftables: %w", err)
	}
	var tables []string
	for line := range strings.Lines(string(out)) {
		if table, ok := strings.CutPrefix(strings.TrimSpace(line), "table "); ok {
			tables = append(tables, table)
		}
	}
	return tables, nil
}

// Begin keeps the record for a start that is about to change the machine. So
// far only the data directory may have been made, and the helper programs in it,
// of which nft must be in the PATH. paths are those of the configuration that
// limpet writes to outside of the data directory. It fails only if the record
// cannot be written; what cannot be looked at is taken for somebody else's.
func Begin(ctx context.Context, dataDir string, log *slog.Logger, paths ...string) error {
	r, err := Load(dataDir)
	if ran() && err != nil || err != nil && !errors.Is(err, fs.ErrNotExist) {
		r = Assumed(dataDir, ran()) // it was lost: that is no reason not to start
	}
	candidates := All(append(paths, dataDir)...)
	seen, err := Look(ctx, candidates, "nft")
	if err != nil {
		log.Warn("an uninstall may leave something: not everything could be looked at before this start", "component", recordName, "error", err)
	}
	if holdsOnly(dataDir, append(DataNames(), filepath.Base(InstalledFile))) {
		delete(seen.Paths, dataDir)
	}
	// An agent has asked a server by now, with the identity that is kept there.
	if holdsOnly(configDir, []string{"node", "limpet.yaml", filepath.Base(PlaceFile)}) {
		delete(seen.Paths, configDir)
	}
	delete(seen.Paths, RunDir)
	installed, err := Installed()
	if err != nil {
		log.Warn("what install.sh made is taken for somebody else's", "component", recordName, "error", err)
	}
	for _, path := range installed {
		delete(seen.Paths, strings.TrimSuffix(path, "/")) // made by install.sh: limpet's all the same
	}
	if err := r.Next(candidates, seen).Save(dataDir); err != nil {
		return err
	}
	if dataDir == defaultDataDir {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(PlaceFile), 0o755); err != nil {
		return fmt.Errorf("create directory of %s: %w", PlaceFile, err)
	}
	_, err = atomicfile.WriteIfChanged(PlaceFile, []byte(dataDir+"\n"), 0o644)
	return err
}

const defaultDataDir = "/var/lib/limpet"

// DataNames are what limpet has in its data directory.
func DataNames() []string {
	return []string{"server", "agent", "data", "storage", "upgrade", "lock", "created.json", "reserve"}
}

// holdsOnly tells whether nothing else is in the directory.
func holdsOnly(dir string, names []string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return !slices.Contains(names, e.Name()) })
}

// Settle notes the kernel settings that limpet has made, once it is up.
func Settle(dataDir string) error {
	r, err := Load(dataDir)
	if err != nil {
		return err
	}
	return r.Settled(ReadSysctls(sysctlNames)).Save(dataDir)
}

// Find returns the record, or what has to be assumed without one; reason then
// tells why.
func Find(dataDir string) (r Record, reason error) {
	r, err := Load(dataDir)
	if err == nil {
		return r, nil
	}
	return Assumed(dataDir, ran()), err
}

// ran tells whether limpet has run a node since the machine's boot.
func ran() bool {
	_, err := os.Stat(filepath.Join(RunDir, "containerd"))
	return err == nil
}
