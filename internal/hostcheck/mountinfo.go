package hostcheck

import (
	"strconv"
	"strings"
)

// mount is one line of /proc/self/mountinfo; see proc_pid_mountinfo(5).
type mount struct {
	Point        string // where it is mounted, escapes decoded
	FSType       string // e.g. ext4, cgroup2
	Source       string // e.g. /dev/mmcblk0p2
	Options      []string
	SuperOptions []string
}

// parseMountinfo reads all well-formed lines, in order; a later mount hides an
// earlier one on the same point.
func parseMountinfo(text string) []mount {
	var mounts []mount
	for line := range strings.Lines(text) {
		left, right, ok := strings.Cut(line, " - ")
		if !ok {
			continue
		}
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) < 6 || len(r) < 2 {
			continue
		}
		m := mount{
			Point:   unescapeMount(l[4]),
			Options: strings.Split(l[5], ","),
			FSType:  r[0],
			Source:  unescapeMount(r[1]),
		}
		if len(r) > 2 {
			m.SuperOptions = strings.Split(r[2], ",")
		}
		mounts = append(mounts, m)
	}
	return mounts
}

// mountOf returns the visible mount that holds the absolute, clean path.
func mountOf(mounts []mount, path string) (mount, bool) {
	var best mount
	found := false
	for _, m := range mounts {
		if m.Point != path && !isBelow(path, m.Point) {
			continue
		}
		// >=: of two mounts on one point the later is on top.
		if !found || len(m.Point) >= len(best.Point) {
			best, found = m, true
		}
	}
	return best, found
}

// isBelow tells whether the clean absolute path lies strictly below dir.
func isBelow(path, dir string) bool {
	if dir == "/" {
		return path != "/" && strings.HasPrefix(path, "/")
	}
	return strings.HasPrefix(path, dir+"/")
}

// unescapeMount decodes the octal escapes (\040 for a space) that the kernel
// writes in mount points.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
