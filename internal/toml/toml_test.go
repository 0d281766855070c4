package toml

import "testing"

func TestQuote(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		``:             `""`,
		`a/b`:          `"a/b"`,
		`say "x\\y"`:   `"say \"x\\\\y\""`,
		"line\nbell\a": `"line\u000Abell\u0007"`,
		"ü\x7f":        `"ü\u007F"`,
	} {
		if got := Quote(in); got != want {
			t.Errorf("Quote(%q) = %s, want %s", in, got, want)
		}
	}
}
