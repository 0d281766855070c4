package created

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// InstalledFile is where install.sh records what it makes: one absolute path a
// line, a directory with a trailing slash; # begins a comment. It has this place
// whatever --data-dir says.
const InstalledFile = "/var/lib/limpet/installed"

// Installed reads that record; none is none.
func Installed() ([]string, error) {
	data, err := os.ReadFile(InstalledFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what install.sh installed: %w", err)
	}
	list, err := ParseInstalled(string(data))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", InstalledFile, err)
	}
	return list, nil
}

// ParseInstalled reads the record's text. It refuses what cannot be of install.sh: everything named here
// is removed.
func ParseInstalled(text string) ([]string, error) {
	var list []string
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		clean := strings.TrimSuffix(line, "/")
		if !filepath.IsAbs(line) || filepath.Clean(line) != clean || strings.Count(clean, "/") < 2 {
			return nil, fmt.Errorf("%q is not a path that install.sh makes", line)
		}
		if !slices.Contains(list, line) {
			list = append(list, line)
		}
	}
	return list, nil
}
