package payload

import (
	"os"
	"strings"
	"testing"
)

// NOTICE offers the source of exactly what is shipped: its versions must be those of
// the lock file that the payload is built from.
func TestNoticeNamesTheLockedPackages(t *testing.T) {
	t.Parallel()
	notice, err := os.ReadFile("../../NOTICE")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{} // package → version
	for line := range strings.Lines(string(notice)) {
		if f := strings.Fields(line); len(f) > 3 {
			listed[f[0]] = f[2]
		}
	}
	locks, err := os.ReadFile("../../scripts/payload/debs.lock")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(locks)) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] == "#" {
			continue
		}
		if n++; listed[f[1]] != f[2] {
			t.Errorf("debs.lock has %s %s for %s, NOTICE has %q", f[1], f[2], f[0], listed[f[1]])
		}
	}
	if n == 0 {
		t.Error("debs.lock lists no package")
	}
}
