package ctr

import (
	"bytes"
	"strings"
	"testing"
)

func TestDefaults(t *testing.T) {
	t.Parallel()
	cmd := command()
	var help bytes.Buffer
	cmd.Writer = &help
	if err := cmd.Run(t.Context(), []string{"ctr", "--help"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"/run/limpet/containerd/containerd.sock"`, `"k8s.io"`, "CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE"} {
		if !strings.Contains(help.String(), want) {
			t.Errorf("%s is not in\n%s", want, help.String())
		}
	}
}

// The address is really the one that is dialled, and the environment goes before it.
func TestAddress(t *testing.T) {
	for name, tt := range map[string]struct{ env, want string }{
		"by default":      {"", "/run/limpet/containerd/containerd.sock"},
		"the environment": {"/nowhere/else.sock", "/nowhere/else.sock"},
	} {
		t.Run(name, func(t *testing.T) { // the environment lasts as long as the case
			if tt.env != "" {
				t.Setenv("CONTAINERD_ADDRESS", tt.env)
			}
			cmd := command()
			cmd.Writer, cmd.ErrWriter = &bytes.Buffer{}, &bytes.Buffer{}
			if err := cmd.Run(t.Context(), []string{"ctr"}); err != nil {
				t.Fatal(err)
			}
			if got := cmd.String("address"); got != tt.want {
				t.Errorf("address is %s, want %s", got, tt.want)
			}
		})
	}
}
