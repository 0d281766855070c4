package payload

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseManifest(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("0a", 32)
	good := "0755 10 " + hash + " bin/runc\n0644 0 " + hash + " a file with spaces\n"
	m, err := parseManifest([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if len(m.files) != 2 || m.total != 10 || m.files[0] != (manifestFile{"bin/runc", 0o755, 10, hash}) || m.files[1].path != "a file with spaces" {
		t.Errorf("parsed %+v", m)
	}

	line := func(path string) string { return "0755 1 " + hash + " " + path + "\n" }
	for name, c := range map[string]struct{ text, want string }{
		"empty":                {"", "whole line"},
		"cut":                  {strings.TrimSuffix(good, "\n"), "whole line"},
		"empty line":           {good + "\n", "4 fields"},
		"three fields":         {"0755 1 " + hash + "\n", "4 fields"},
		"mode not octal":       {"0788 1 " + hash + " a\n", "octal"},
		"mode with set-uid":    {"4755 1 " + hash + " a\n", "octal permission bits"},
		"negative size":        {"0755 -1 " + hash + " a\n", "size"},
		"huge size":            {"0755 9999999999 " + hash + " a\n", "size"},
		"huge total":           {"0755 1000000000 " + hash + " a\n0755 1000000000 " + hash + " b\n", "add up"},
		"short hash":           {"0755 1 abcd a\n", "sha256"},
		"upper-case hash":      {"0755 1 " + strings.ToUpper(hash) + " a\n", "sha256"},
		"parent":               {line("../x"), "plain path"},
		"parent inside":        {line("bin/../../x"), "plain path"},
		"absolute":             {line("/etc/passwd"), "plain path"},
		"not clean":            {line("bin//x"), "plain path"},
		"dot":                  {line("."), "plain path"},
		"directory":            {line("bin/"), "plain path"},
		"NUL":                  {line("a\x00b"), "plain path"},
		"the manifest itself":  {line(manifestName), "plain path"},
		"twice":                {line("a") + line("a"), "twice"},
		"file as directory":    {line("a") + line("a/b"), "lies in the file"},
		"directory as file":    {line("a/b") + line("a"), "twice"},
		"too many files":       {manyLines(maxFiles+1, hash), "more than"},
		"more than the limits": {strings.Repeat("x", maxManifestBytes+1), "more than"},
	} {
		if _, err := parseManifest([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v does not contain %q", name, err, c.want)
		}
	}
}

func manyLines(n int, hash string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "0755 1 %s f%d\n", hash, i)
	}
	return b.String()
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(manifestOf(small())))
	f.Add([]byte("0755 1 x ../y\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseManifest(data)
		if err != nil {
			return
		}
		// What is accepted must be written back the same way, but for leading zeros.
		var b strings.Builder
		for _, file := range m.files {
			fmt.Fprintf(&b, "%04o %d %s %s\n", file.mode, file.size, file.sum, file.path)
		}
		again, err := parseManifest([]byte(b.String()))
		if err != nil || len(again.files) != len(m.files) || again.total != m.total {
			t.Errorf("%q was accepted, but not as written back %q: %v", data, b.String(), err)
		}
	})
}
