package config

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestMigrationTable compares the tables of options in docs/migrate-from-k3s.md
// with the options: what is the same there exists here, what is not there does
// not, and what stands in its place does.
func TestMigrationTable(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../../docs/migrate-from-k3s.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tables, _ := strings.Cut(string(doc), "\n## Options\n")
	tables, _, _ = strings.Cut(tables, "\n## ")
	flag := regexp.MustCompile("`--?([a-z0-9-]+)[` ]")
	known := func(name string) bool { return lookup(Options(), name) != nil }
	rows := 0
	for line := range strings.SplitSeq(tables, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.Contains(cells[1], "`-") {
			continue
		}
		rows++
		theirs, ours := flag.FindAllStringSubmatch(cells[1], -1), strings.TrimSpace(cells[2])
		for _, f := range theirs {
			if same := ours == "same"; (same || ours == "not there") && known(f[1]) != same {
				t.Errorf("%s: the table says %q", f[0], ours)
			}
		}
		instead := flag.FindAllStringSubmatch(ours, -1)
		if ours != "same" && ours != "not there" && len(instead) == 0 {
			t.Errorf("%q: neither same, nor not there, nor an option of limpet: %q", cells[1], ours)
		}
		for _, f := range append(instead, flag.FindAllStringSubmatch(cells[3], -1)...) {
			if !known(f[1]) {
				t.Errorf("%q: limpet has no option %s", cells[1], f[0])
			}
		}
	}
	if rows < 50 {
		t.Errorf("only %d rows were found", rows)
	}
}
