package payload

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// Limits of a manifest, far above what the build makes. They bound what a damaged
// or hostile archive can cost.
const (
	maxManifestBytes = 1 << 20
	maxFiles         = 4096
	maxTotalBytes    = 1 << 30
)

// manifestName is the first file of an archive and lies in every payload directory.
const manifestName = "MANIFEST"

// manifestFile is one line of a manifest.
type manifestFile struct {
	path string // relative, slashes, inside the directory
	mode fs.FileMode
	size int64
	sum  string // sha256 in lower-case hex
}

// manifest lists every file of a payload except the manifest itself, in the order
// of the archive.
type manifest struct {
	files []manifestFile
	total int64 // bytes of all files
}

// parseManifest reads lines of `MODE SIZE SHA256 PATH`: octal permission bits,
// decimal bytes, 64 hex digits, relative path. Anything else is an error, as are
// paths that leave the directory, paths given twice, and a file used as a directory.
func parseManifest(data []byte) (manifest, error) {
	var m manifest
	if len(data) > maxManifestBytes {
		return m, fmt.Errorf("manifest has %d bytes, more than %d", len(data), maxManifestBytes)
	}
	if len(data) == 0 || data[len(data)-1] != '\n' {
		return m, fmt.Errorf("manifest does not end with a whole line")
	}
	seen := map[string]bool{} // path → is a file (otherwise a directory of one)
	lines := bytes.Split(data[:len(data)-1], []byte{'\n'})
	if len(lines) > maxFiles {
		return m, fmt.Errorf("manifest lists %d files, more than %d", len(lines), maxFiles)
	}
	for i, line := range lines {
		f, err := parseLine(string(line))
		if err != nil {
			return m, fmt.Errorf("manifest line %d: %w", i+1, err)
		}
		if err := claim(seen, f.path); err != nil {
			return m, fmt.Errorf("manifest line %d: %w", i+1, err)
		}
		if m.total += f.size; m.total > maxTotalBytes {
			return m, fmt.Errorf("manifest line %d: files add up to more than %d bytes", i+1, maxTotalBytes)
		}
		m.files = append(m.files, f)
	}
	return m, nil
}

func parseLine(line string) (manifestFile, error) {
	fields := strings.SplitN(line, " ", 4)
	if len(fields) != 4 {
		return manifestFile{}, fmt.Errorf("want 4 fields, got %d", len(fields))
	}
	mode, err := strconv.ParseUint(fields[0], 8, 32)
	if err != nil || mode > 0o777 {
		return manifestFile{}, fmt.Errorf("mode %q is not octal permission bits", fields[0])
	}
	size, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil || size < 0 || size > maxTotalBytes {
		return manifestFile{}, fmt.Errorf("size %q is not between 0 and %d", fields[1], maxTotalBytes)
	}
	if !isSHA256(fields[2]) {
		return manifestFile{}, fmt.Errorf("%q is not a sha256", fields[2])
	}
	p := fields[3]
	if !filepath.IsLocal(p) || path.Clean(p) != p || p == "." || p == manifestName || strings.ContainsAny(p, "\\\x00") {
		return manifestFile{}, fmt.Errorf("path %q is not a plain path inside the directory", p)
	}
	return manifestFile{path: p, mode: fs.FileMode(mode), size: size, sum: fields[2]}, nil
}

// claim records a path and its directories and refuses a path that is both.
func claim(seen map[string]bool, p string) error {
	if _, ok := seen[p]; ok {
		return fmt.Errorf("path %q is listed twice", p)
	}
	seen[p] = true
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if seen[dir] {
			return fmt.Errorf("path %q lies in the file %q", p, dir)
		}
		seen[dir] = false
	}
	return nil
}

// isSHA256 reports whether s is a sha256 in lower-case hex.
func isSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
