package dns

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func words(lines []line) [][]string {
	var out [][]string
	for _, l := range lines {
		out = append(out, l.words)
	}
	return out
}

func TestLex(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		in   string
		want [][]string
	}{
		"comments and empty lines": {"# a\n\n.:53 { # b\n errors\n}\n", [][]string{{".:53", "{"}, {"errors"}, {"}"}}},
		"quotes":                   {`template "a b" "x\"y" ""` + "\n", [][]string{{"template", "a b", `x"y`, ""}}},
		"a word of two lines":      {"a \"b\nc\" d\ne\n", [][]string{{"a", "b\nc", "d"}, {"e"}}},
		"carriage returns":         {"a b\r\nc\r\n", [][]string{{"a", "b"}, {"c"}}},
		"byte order mark":          {"\ufeffa b\n", [][]string{{"a", "b"}}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lines, err := lex("Corefile", tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := words(lines); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestLexRefusesEnvironment(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"a {$LIMPET_TOKEN}\n", "a {%PATH%}\n", "a x{$A}y\n"} {
		_, err := lex("Corefile", "ok\n"+in)
		if !errors.Is(err, errEnvironment) || !strings.HasPrefix(err.Error(), "Corefile:2: ") {
			t.Errorf("%q: got error %v", in, err)
		}
	}
}

// FuzzLex checks that what is written lexes to the same words.
func FuzzLex(f *testing.F) {
	f.Add(".:53 {\n  errors # x\n  forward . \"a b\" 1.1.1.1\n}\n")
	f.Add("\"a\\\\\" b\n\"x\ny\" z")
	f.Fuzz(func(t *testing.T, in string) {
		lines, err := lex("f", in)
		if err != nil {
			return
		}
		var b strings.Builder
		for _, l := range lines {
			if err := writeLine(&b, 1, l.words); err != nil {
				return // says so instead of writing something else
			}
		}
		again, err := lex("f", b.String())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := words(again), words(lines); !reflect.DeepEqual(got, want) {
			t.Fatalf("%q was written as %q", want, got)
		}
	})
}
