package dns

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestExpand(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		main, custom map[string]string
		want         string // lines joined by |
		err          string
	}{
		"override and server as k3s users know them": {
			main: map[string]string{"Corefile": ".:53 {\n errors\n import /etc/coredns/custom/*.override\n}\nimport /etc/coredns/custom/*.server\n"},
			custom: map[string]string{
				"b.override": "log", "a.override": "whoami\nnsid", "x.server": "example.com:53 {\n whoami\n}", "README": "not a Corefile {",
			},
			want: ".:53 {|errors|whoami|nsid|log|}|example.com:53 {|whoami|}",
		},
		"no coredns-custom": {
			main: map[string]string{"Corefile": ". {\n import custom/*.override\n}\nimport custom/*.server"},
			want: ". {|}",
		},
		"snippet": {
			main: map[string]string{"Corefile": "(common) {\n errors\n cache 30 {\n  disable success\n }\n}\n. {\n import common\n}\nb. {\n import common\n}"},
			want: ". {|errors|cache 30 {|disable success|}|}|b. {|errors|cache 30 {|disable success|}|}",
		},
		"file imports file": {
			main: map[string]string{"Corefile": "import a", "a": "import b", "b": ". {\n}"},
			want: ". {|}",
		},
		"import is a word elsewhere": {
			main: map[string]string{"Corefile": ". {\n rewrite name import export\n}"},
			want: ". {|rewrite name import export|}",
		},
		"file of the machine": {
			main: map[string]string{"Corefile": ". {\n import /etc/passwd\n}"},
			err:  "/etc/coredns/Corefile:2: import: no snippet (/etc/passwd) and no file /etc/passwd",
		},
		"glob over the machine finds nothing": {
			main: map[string]string{"Corefile": "import /etc/*\n. {\n}"},
			want: ". {|}",
		},
		"leaving the directory": {
			main: map[string]string{"Corefile": "import ../passwd\n"},
			err:  "no file /etc/passwd",
		},
		"a snippet that only looks like one cannot name a file": {
			main: map[string]string{"Corefile": "a,\n(/etc/passwd) {\n import /etc/passwd\n}\nb. {\n import /etc/passwd\n}"},
			err:  "nested more than 16",
		},
		"imports itself":         {main: map[string]string{"Corefile": "import Corefile"}, err: "nested more than 16 deep"},
		"snippet imports itself": {main: map[string]string{"Corefile": "(a) {\n import a\n}\nimport a\n"}, err: "nested more than 16 deep"},
		"defined twice":          {main: map[string]string{"Corefile": "(a) {\n}\n(a) {\n}"}, err: "defined twice"},
		"after the brace":        {main: map[string]string{"Corefile": "(a) {\n} b"}, err: "nothing may follow"},
		"two arguments":          {main: map[string]string{"Corefile": "import a b"}, err: "import takes one"},
		"bad pattern":            {main: map[string]string{"Corefile": "import [", "[": ""}, err: "syntax error in pattern"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lines, err := expand(newVirtualFiles(tt.main, tt.custom))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("got error %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, l := range lines {
				got = append(got, strings.Join(l.words, " "))
			}
			if want := strings.Split(tt.want, "|"); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

func TestExpandIsBounded(t *testing.T) {
	t.Parallel()
	// Sixteen levels of ten imports each would be 10^16 lines.
	files := map[string]string{"Corefile": "import f0", "f15": "errors\n"}
	for i := range 15 {
		files[fmt.Sprintf("f%d", i)] = strings.Repeat(fmt.Sprintf("import f%d\n", i+1), 10)
	}
	if _, err := expand(newVirtualFiles(files, nil)); err == nil {
		t.Fatal("no limit was hit")
	}
}

func FuzzExpand(f *testing.F) {
	f.Add("(a) {\n errors\n}\n. {\n import a\n import custom/*.override\n}\nimport custom/*.server", "log", "x. {\n}")
	f.Add("import Corefile", "import ../Corefile", "(b) {")
	f.Fuzz(func(t *testing.T, main, override, server string) {
		lines, err := expand(newVirtualFiles(map[string]string{"Corefile": main},
			map[string]string{"a.override": override, "b.server": server}))
		if err != nil {
			return
		}
		for _, l := range lines {
			if l.words[0] == "import" {
				t.Fatalf("an import is left: %q", l.words)
			}
		}
	})
}
