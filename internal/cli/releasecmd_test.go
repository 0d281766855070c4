package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/limpetio/limpet/internal/config"
)

// releaseCalls notes what is called.
type releaseCalls struct{ calls *[]string }

func (r releaseCalls) Add(_ context.Context, sources []string, arch, key string) error {
	*r.calls = append(*r.calls, fmt.Sprintf("add %v %q %q", sources, arch, key))
	return nil
}

func (r releaseCalls) List(context.Context) error {
	*r.calls = append(*r.calls, "list")
	return nil
}

func TestReleaseCommand(t *testing.T) {
	t.Parallel()
	for line, want := range map[string][]string{
		"add a.tar.zst b.tar.zst --arch arm64 --public-key K --data-dir /x": {"/x", `add [a.tar.zst b.tar.zst] "arm64" "K"`},
		"list": {config.DefaultDataDir, "list"},
	} {
		calls, code := releaseRun(t, line)
		if code != ExitOK || !slices.Equal(calls, want) {
			t.Errorf("%s: exit code %d, calls %q, want %q", line, code, calls, want)
		}
	}
	for _, line := range []string{"add", "add a --arch riscv64", "remove a", "list a"} {
		if calls, code := releaseRun(t, line); code != ExitUsage || len(calls) > 1 {
			t.Errorf("%s: exit code %d, calls %q", line, code, calls)
		}
	}
}

func releaseRun(t *testing.T, line string) (calls []string, code int) {
	r := newRun(t)
	r.app.Actions.Release = func(_ io.Writer, cfg config.Server) ReleaseActions {
		calls = append(calls, cfg.DataDir)
		return releaseCalls{&calls}
	}
	code = r.run(append([]string{"release"}, strings.Fields(line)...)...)
	return calls, code
}
