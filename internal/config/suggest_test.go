package config

import "testing"

func TestDistance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"same", "same", 0},
		{"kitten", "sitting", 3},
		{"ca", "ac", 1},  // a swap is one edit
		{"ca", "abc", 3}, // but no edit between swapped letters
		{"abcd", "badc", 2},
		{"cluster-cdir", "cluster-cidr", 1},
	} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if got := distance(c.b, c.a); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.b, c.a, got, c.want)
		}
	}
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	options := names(Options())
	for word, want := range map[string]string{
		"cluster-cdir":        "cluster-cidr",
		"tls-sans":            "tls-san",
		"node-lable":          "node-label",
		"kube-api-server-arg": "kube-apiserver-arg",
		"write-kube-config":   "write-kubeconfig",
		"tokn":                "token",
		"datadir":             "data-dir",
		"x":                   "", // one letter is near every letter: no guess
		"traefik":             "",
		"":                    "",
	} {
		if got := Suggest(word, options); got != want {
			t.Errorf("Suggest(%q) = %q, want %q", word, got, want)
		}
	}
}
