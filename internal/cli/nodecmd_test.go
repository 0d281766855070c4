package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/nodectl"
)

// fakeNodes notes what it was asked for.
type fakeNodes struct {
	config config.Server
	called *string
}

func (f fakeNodes) note(format string, args ...any) error {
	*f.called = f.config.DataDir + ": " + fmt.Sprintf(format, args...)
	return nil
}

func (f fakeNodes) List(_ context.Context, asJSON bool) error { return f.note("list %t", asJSON) }
func (f fakeNodes) Drain(_ context.Context, name string, how nodectl.Drain) error {
	return f.note("drain %s %+v", name, how)
}
func (f fakeNodes) Remove(_ context.Context, name string, how nodectl.Drain) error {
	return f.note("remove %s %+v", name, how)
}
func (f fakeNodes) Rejoin(_ context.Context, name string, ttl time.Duration) error {
	return f.note("rejoin %s %v", name, ttl)
}

func TestNodeCommands(t *testing.T) {
	t.Parallel()
	const plain = "{Timeout:5m0s Grace:-1ns Force:false DeleteEmptyDirData:false DisableEviction:false}"
	for _, c := range []struct {
		args   string
		code   int
		called string
		stderr string
	}{
		{"node list", ExitOK, "/var/lib/limpet: list false", ""},
		{"node list -o json --data-dir /d", ExitOK, "/d: list true", ""},
		{"node drain shop-2", ExitOK, "/var/lib/limpet: drain shop-2 " + plain, ""},
		{"node drain --timeout 0 --force shop-2", ExitOK, "/var/lib/limpet: drain shop-2 {Timeout:0s Grace:-1ns Force:true DeleteEmptyDirData:false DisableEviction:false}", ""},
		{"node drain shop-2 --delete-emptydir-data --grace 3s --timeout=1m --disable-eviction=true", ExitOK, "/var/lib/limpet: drain shop-2 {Timeout:1m0s Grace:3s Force:false DeleteEmptyDirData:true DisableEviction:true}", ""},
		{"node remove shop-2 --data-dir /d", ExitOK, "/d: remove shop-2 " + plain, ""},
		{"node remove -- shop-2", ExitOK, "/var/lib/limpet: remove shop-2 " + plain, ""},
		{"node rejoin shop-2", ExitOK, "/var/lib/limpet: rejoin shop-2 1h0m0s", ""},
		{"node rejoin shop-2 --ttl 24h", ExitOK, "/var/lib/limpet: rejoin shop-2 24h0m0s", ""},

		{"node list shop-2", ExitUsage, "", `takes no arguments, but has "shop-2"`},
		{"node list -o yaml", ExitUsage, "", `"yaml" is not one of text, json`},
		{"node lsit", ExitUsage, "", `unknown command "lsit"; did you mean list?`},
		{"node drain", ExitUsage, "", "needs NODE"},
		{"node drain a b", ExitUsage, "", "takes one node, but has 2 arguments"},
		{"node drain a --timeout soon", ExitUsage, "", `"soon" is not a time`},
		{"node drain a --timeout", ExitUsage, "", "flag --timeout: needs a value"},
		{"node drain a --force=perhaps", ExitUsage, "", `"perhaps" is neither true nor false`},
		{"node drain a --forse", ExitUsage, "", "unknown flag --forse; did you mean --force?"},
		{"node drain a --grace -3s", ExitUsage, "", "is not a time"},
		{"node rejoin a --ttl 25h", ExitUsage, "", "not a time from 1m to 24h"},
		{"node rejoin a --ttl 0", ExitUsage, "", "not a time from 1m to 24h"},
		{"node remove a --data-dir here", ExitUsage, "", `"here" is not an absolute path`},
	} {
		var called string
		var stdout, stderr bytes.Buffer
		a := New(Actions{Node: func(_ io.Writer, cfg config.Server) NodeActions { return fakeNodes{cfg, &called} }})
		a.Stdout, a.Stderr, a.DefaultConfigFile = &stdout, &stderr, t.TempDir()+"/none.yaml"
		a.LookupEnv = func(string) (string, bool) { return "", false }
		a.Hostname = func() (string, error) { return "box", nil }
		code := a.Run(t.Context(), append([]string{"limpet"}, strings.Fields(c.args)...))
		if code != c.code || called != c.called || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%s: exit code %d, called %q, want %d and %q that says %q; stderr:\n%s", c.args, code, called, c.code, c.called, c.stderr, stderr.String())
		}
	}
}
