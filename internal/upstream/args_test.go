package upstream

import (
	"slices"
	"strings"
	"testing"
)

func TestMerge(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name           string
		defaults, user []string
		want           []string
	}{
		{"defaults only", []string{"a=1", "b"}, nil, []string{"--a=1", "--b"}},
		{"the user's value replaces ours", []string{"a=1", "b=2"}, []string{"b=3"}, []string{"--a=1", "--b=3"}},
		{"dashes do not matter", []string{"a=1"}, []string{"--a=2"}, []string{"--a=2"}},
		{"underscores are dashes", []string{"a-b=1"}, []string{"a_b=2"}, []string{"--a_b=2"}},
		{"repeated keys add up", []string{"a=1"}, []string{"a=2", "a=3"}, []string{"--a=2", "--a=3"}},
		{"feature gates are added to ours", []string{"feature-gates=A=false"}, []string{"feature-gates=B=true"}, []string{"--feature-gates=A=false", "--feature-gates=B=true"}},
		{"commas and equal signs are kept", nil, []string{"gates=A=true,B=false"}, []string{"--gates=A=true,B=false"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := Merge(tt.defaults, tt.user); !slices.Equal(got, tt.want) {
				t.Errorf("Merge(%q, %q) = %q, want %q", tt.defaults, tt.user, got, tt.want)
			}
		})
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	user := []string{"--oidc-issuer-url=https://x", "v=4"}
	for key, want := range map[string]bool{"v": true, "oidc-*": true, "oidc": false, "anonymous-auth": false} {
		if got := Names(user, key); got != want {
			t.Errorf("Names(%q, %q) = %v, want %v", user, key, got, want)
		}
	}
}

func TestParseFlagsReportsTheComponentsOwnMessage(t *testing.T) {
	t.Parallel()
	fs := NewFlagSet("kube-example")
	fs.Int("workers", 1, "")
	for _, args := range [][]string{{"--no-such-flag=1"}, {"--workers=many"}, {"stray"}} {
		err := ParseFlags("kube-example", fs, args)
		if err == nil || !strings.HasPrefix(err.Error(), "--kube-example-arg: kube-example says: ") {
			t.Errorf("ParseFlags(%q) = %v", args, err)
		}
	}
}
