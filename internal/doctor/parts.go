package doctor

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/limpetio/limpet/internal/hostcheck"
	"github.com/limpetio/limpet/internal/status"
	"github.com/limpetio/limpet/internal/version"
)

// How certificates are marked whose time is not now.
const (
	notYet  = "NOT VALID YET"
	expired = "EXPIRED"
)

// logLines is how much of the log is taken.
const logLines = "10000"

// collection is one run.
type collection struct{ opts Options }

func (c *collection) parts() []part {
	path := func(names ...string) string { return filepath.Join(append([]string{c.opts.DataDir}, names...)...) }
	return []part{
		{"version.json", func(context.Context) (string, error) { return asJSON(version.Get()) }},
		{"config.yaml", func(context.Context) (string, error) { return c.opts.Config, c.opts.Problems }},
		{"config-files.txt", files("/etc/limpet/config.yaml", "/etc/limpet/config.yaml.d/*", "/etc/limpet/registries.yaml",
			"/etc/systemd/system/limpet*.service", "/etc/systemd/system/limpet*.service.env", "/etc/conf.d/limpet*")},
		{"status.txt", func(ctx context.Context) (string, error) {
			var b bytes.Buffer
			err := status.Print(ctx, &b, status.Socket, false)
			return b.String(), err
		}},
		{"status.json", func(ctx context.Context) (string, error) {
			var b bytes.Buffer
			err := status.Print(ctx, &b, status.Socket, true)
			return b.String(), err
		}},
		{"log.txt", c.log},
		{"check-config.txt", func(ctx context.Context) (string, error) {
			var b bytes.Buffer
			_, err := hostcheck.Run(ctx, hostcheck.Options{DataDir: c.opts.DataDir, Out: &b})
			return b.String(), err
		}},
		{"nodes.txt", c.fromCluster(nodes)},
		{"pods.txt", c.fromCluster(pods)},
		{"events.txt", c.fromCluster(events)},
		{"certificates.txt", func(context.Context) (string, error) { return certificates(time.Now(), path("server"), path("agent")) }},
		{"upgrade.txt", files(path("upgrade", "journal.json"), path("upgrade", "*.log"))},
		{"created.json", files(path("created.json"), "/var/lib/limpet/installed")},
		{"data-directory.txt", func(context.Context) (string, error) { return listing(c.opts.DataDir) }},
		{"disk.txt", func(context.Context) (string, error) {
			return disks("/", c.opts.DataDir, "/run", "/var/lib/kubelet", "/var/log")
		}},
		{"mounts.txt", files("/proc/self/mountinfo")},
		{"memory.txt", files("/proc/meminfo", "/proc/loadavg", "/proc/uptime", "/proc/pressure/*")},
		{"interfaces.txt", network},
		{"nft.txt", program(path("data", "current", "bin"), "nft", "list", "ruleset")},
		{"cni.txt", files(path("agent", "etc", "cni", "net.d", "*"), "/run/limpet/flannel/subnet.env")},
	}
}

func asJSON(v any) (string, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return string(data), err
}

// files prints files by patterns, each after its name. What is not there is left out.
func files(patterns ...string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		var b strings.Builder
		var errs []error
		for _, pattern := range patterns {
			names, err := filepath.Glob(pattern)
			errs = append(errs, err)
			for _, name := range names {
				data, err := readTail(name)
				errs = append(errs, err)
				fmt.Fprintf(&b, "==> %s\n%s\n", name, data)
			}
		}
		return b.String(), errors.Join(errs...)
	}
}

// readTail reads the last maxPart bytes of a regular file, or of one of /proc.
func readTail(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, err
	}
	if info.Size() > maxPart {
		if _, err := f.Seek(-maxPart, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, 2*maxPart))
}

// log is the end of limpet's log.
func (c *collection) log(ctx context.Context) (string, error) {
	if c.opts.LogFile != "" {
		data, err := readTail(c.opts.LogFile)
		return string(data), err
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil {
		return program("", "journalctl", "--no-pager", "--output", "short-iso-precise", "--lines", logLines,
			"--unit", "limpet.service", "--unit", "limpet-agent.service", "--unit", "limpet-upgrade-guard.service")(ctx)
	}
	names, err := filepath.Glob("/var/log/limpet*.log")
	if err != nil || len(names) == 0 {
		return "", errors.New("there is no systemd here, so limpet's log is unknown; name its file with --log")
	}
	return files(names...)(ctx)
}

// program prints what a program of the machine, or of the payload in dir, says.
func program(dir, name string, args ...string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		path := name
		if helper := filepath.Join(dir, name); dir != "" {
			if _, err := os.Stat(helper); err == nil {
				path = helper
			}
		}
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return string(out), err
	}
}

// certificates lists whom each certificate is for and until when; keys are not read.
func certificates(now time.Time, dirs ...string) (string, error) {
	var b strings.Builder
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if d.IsDir() && (d.Name() == "containerd" || d.Name() == "db" || d.Name() == "images") {
				return fs.SkipDir
			}
			if ext := filepath.Ext(path); d.IsDir() || ext != ".crt" && ext != ".pem" {
				return nil
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			describe(&b, path, data, now)
			return nil
		}))
	}
	return b.String(), errors.Join(errs...)
}

// describe takes the certificates out of PEM, a line each.
func describe(w io.Writer, path string, data []byte, now time.Time) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			fmt.Fprintf(w, "%s: damaged: %v\n", path, err)
			continue
		}
		state := "valid"
		switch {
		case now.Before(cert.NotBefore):
			state = notYet
		case now.After(cert.NotAfter):
			state = expired
		}
		fmt.Fprintf(w, "%s: %s: %s to %s, for %s, by %s\n", path, state, cert.NotBefore.Format(time.RFC3339), cert.NotAfter.Format(time.RFC3339), cert.Subject, cert.Issuer)
	}
}

// listing is the data directory as ls shows it, without what containerd has in its own.
func listing(dir string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", path, err)
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // removed meanwhile
		}
		fmt.Fprintf(&b, "%s %12d %s %s\n", info.Mode(), info.Size(), info.ModTime().UTC().Format(time.RFC3339), path)
		if d.IsDir() && slices.Contains([]string{"snapshots", "io.containerd.content.v1.content", "io.containerd.snapshotter.v1.overlayfs"}, d.Name()) {
			return fs.SkipDir
		}
		return nil
	})
	return b.String(), err
}

// disks is the space of the file systems that hold the paths.
func disks(paths ...string) (string, error) {
	var b strings.Builder
	var errs []error
	for _, path := range paths {
		var s unix.Statfs_t
		if err := unix.Statfs(path, &s); err != nil {
			if !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("%s: %w", path, err))
			}
			continue
		}
		unit := uint64(s.Bsize) //nolint:unconvert // its type differs between architectures
		fmt.Fprintf(&b, "%-24s %8d MiB, %8d MiB free, %d of %d inodes free\n", path, s.Blocks*unit>>20, s.Bavail*unit>>20, s.Ffree, s.Files)
	}
	return b.String(), errors.Join(errs...)
}

// keptSecrets are values that limpet has in files of its own.
func keptSecrets(dataDir string) []string {
	var list []string
	for _, name := range []string{filepath.Join(dataDir, "server", "token"), "/etc/limpet/token"} {
		data, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		text := strings.TrimSpace(string(data))
		list = append(list, text)
		if _, secret, ok := strings.Cut(text[strings.LastIndex(text, ":")+1:], "."); ok {
			list = append(list, secret)
		}
	}
	return list
}
