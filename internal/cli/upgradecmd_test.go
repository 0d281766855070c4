package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/limpetio/limpet/internal/upgrade"
)

// fakeUpgrades keeps what it was told.
type fakeUpgrades struct {
	dataDir  string
	options  upgrade.Options
	rollback []any
	guard    string
	err      error
}

func (f *fakeUpgrades) Upgrade(_ context.Context, o upgrade.Options) error {
	f.options = o
	return f.err
}

func (f *fakeUpgrades) WayBack(_ context.Context, withData bool) (upgrade.Way, error) {
	way := upgrade.Way{Now: upgrade.Build{Version: "v2"}, Back: upgrade.Build{Version: "v1"}}
	if withData {
		way.Snapshot = "/s"
	}
	return way, f.err
}

func (f *fakeUpgrades) Rollback(_ context.Context, withData bool, timeout time.Duration) error {
	f.rollback = []any{withData, timeout}
	return nil
}

func (f *fakeUpgrades) Guard(_ context.Context, detach bool) error {
	f.guard = map[bool]string{true: "detach", false: "guard"}[detach]
	return nil
}

func runUpgrade(t *testing.T, err error, args ...string) (*fakeUpgrades, *run, int) {
	t.Helper()
	r, f := newRun(t), &fakeUpgrades{err: err}
	stdin, w, pipeErr := os.Pipe() // no terminal
	if pipeErr != nil {
		t.Fatal(pipeErr)
	}
	_ = w.Close()
	t.Cleanup(func() { _ = stdin.Close() })
	r.app.Stdin = stdin
	r.app.Actions.Upgrade = func(_ io.Writer, dataDir string) UpgradeActions {
		f.dataDir = dataDir
		return f
	}
	return f, r, r.run(args...)
}

func TestUpgradeCommand(t *testing.T) {
	t.Parallel()
	f, r, code := runUpgrade(t, nil, "upgrade", "--to", "v1.2.3", "--timeout=90s", "--force", "--public-key", "K", "--release-url", "U", "-d", "/data")
	o := f.options
	if code != ExitOK || f.dataDir != "/data" || o.Source != "v1.2.3" || o.Timeout != 90*time.Second || !o.Force || o.PublicKey != "K" || o.BaseURL != "U" {
		t.Errorf("exit code %d, %+v: %s", code, f, r.stderr.String())
	}
	_, r, code = runUpgrade(t, &upgrade.Error{Code: upgrade.CameBack, What: "it is back"}, "upgrade", "--to", "v1.2.3")
	if code != 40 || !strings.Contains(r.stderr.String(), "limpet upgrade: it is back") {
		t.Errorf("exit code %d: %s", code, r.stderr.String())
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"upgrade"}, "needs --to"},
		{[]string{"upgrade", "v1.2.3"}, "takes no arguments"},
		{[]string{"upgrade", "--to", "v1.2.3", "--timeout", "5"}, "is not a time of a second or more"},
		{[]string{"upgrade", "--to", "v1.2.3", "--timeout", "-5m"}, "is not a time of a second or more"},
	} {
		f, r, code := runUpgrade(t, nil, c.args...)
		if code != ExitUsage || !strings.Contains(r.stderr.String(), c.want) || f.options.Source != "" {
			t.Errorf("%q: exit code %d: %s", c.args, code, r.stderr.String())
		}
	}
}

func TestGuardCommand(t *testing.T) {
	t.Parallel()
	f, r, code := runUpgrade(t, nil, "upgrade", "guard", "--data-dir", "/data")
	if code != ExitOK || f.guard != "guard" || f.dataDir != "/data" {
		t.Errorf("exit code %d, %+v: %s", code, f, r.stderr.String())
	}
	if f, _, code := runUpgrade(t, nil, "upgrade", "guard", "--detach"); code != ExitOK || f.guard != "detach" {
		t.Errorf("exit code %d, %+v", code, f)
	}
}

func TestRollbackCommand(t *testing.T) {
	t.Parallel()
	f, r, code := runUpgrade(t, nil, "rollback", "--yes", "--timeout", "1m")
	if code != ExitOK || len(f.rollback) != 2 || f.rollback[0] != true || f.rollback[1] != time.Minute {
		t.Errorf("exit code %d, %+v: %s", code, f, r.stderr.String())
	}
	if f, _, _ := runUpgrade(t, nil, "rollback", "--yes", "--no-snapshot"); len(f.rollback) != 2 || f.rollback[0] != false {
		t.Errorf("%+v", f)
	}
	// Without a terminal nobody can be asked, and what is lost is told all the same.
	f, r, code = runUpgrade(t, nil, "rollback")
	if code != ExitUsage || f.rollback != nil || !strings.Contains(r.stderr.String(), "are lost") || !strings.Contains(r.stderr.String(), "--yes") {
		t.Errorf("exit code %d, %+v: %s", code, f, r.stderr.String())
	}
	broken := errors.New("nothing to go back to")
	if f, r, code := runUpgrade(t, broken, "rollback", "--yes"); code != ExitFailure || f.rollback != nil || !strings.Contains(r.stderr.String(), broken.Error()) {
		t.Errorf("exit code %d, %+v: %s", code, f, r.stderr.String())
	}
}
