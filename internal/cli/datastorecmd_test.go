package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/limpetio/limpet/internal/config"
	"github.com/limpetio/limpet/internal/datastorectl"
)

// fakeDatastore notes what it was asked for.
type fakeDatastore struct {
	config config.Server
	called *string
	err    error
}

func (f fakeDatastore) note(format string, args ...any) error {
	*f.called = f.config.DataDir + ": " + fmt.Sprintf(format, args...)
	return f.err
}

func (f fakeDatastore) SaveSnapshot(context.Context) error { return f.note("save") }
func (f fakeDatastore) ListSnapshots(_ context.Context, asJSON bool) error {
	return f.note("list %t", asJSON)
}
func (f fakeDatastore) VerifySnapshots(_ context.Context, names []string) error {
	return f.note("verify %q", names)
}
func (f fakeDatastore) RestoreSnapshot(_ context.Context, name string) error {
	return f.note("restore %s", name)
}
func (f fakeDatastore) DeleteSnapshots(_ context.Context, names []string) error {
	return f.note("delete %q", names)
}
func (f fakeDatastore) ImportDatastore(_ context.Context, in datastorectl.Import) error {
	return f.note("import %+v", in)
}
func (f fakeDatastore) ExportDatastore(_ context.Context, file, format string, replace bool) error {
	return f.note("export %s %s %t", file, format, replace)
}

func TestDatastoreCommands(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args   string
		code   int
		called string
		stderr string
	}{
		{"snapshot save --data-dir /d", ExitOK, "/d: save", ""},
		{"snapshot list -o json", ExitOK, "/var/lib/limpet: list true", ""},
		{"snapshot verify a b", ExitOK, `/var/lib/limpet: verify ["a" "b"]`, ""},
		{"snapshot restore a", ExitOK, "/var/lib/limpet: restore a", ""},
		{"snapshot delete a", ExitOK, `/var/lib/limpet: delete ["a"]`, ""},
		{"datastore import --replace --prefix /registry /k3s", ExitOK, "/var/lib/limpet: import {Source:/k3s Replace:true CAFile: CertFile: KeyFile: User: PasswordFile: Prefix:/registry}", ""},
		{"datastore import https://etcd:2379 --cacert ca --replace", ExitOK, "/var/lib/limpet: import {Source:https://etcd:2379 Replace:true CAFile:ca CertFile: KeyFile: User: PasswordFile: Prefix:}", ""},
		{"snapshot delete a --data-dir /d b", ExitOK, `/d: delete ["a" "b"]`, ""},
		{"datastore export --format kine f", ExitOK, "/var/lib/limpet: export f kine false", ""},

		{"snapshot restore", ExitUsage, "", "needs NAME|FILE"},
		{"snapshot restore a b", ExitUsage, "", "takes one snapshot, but has 2 arguments"},
		{"snapshot delete", ExitUsage, "", "needs NAME..."},
		{"snapshot save now", ExitUsage, "", `takes no arguments, but has "now"`},
		{"snapshot saev", ExitUsage, "", `unknown command "saev"; did you mean save?`},
		{"snapshot list -o yaml", ExitUsage, "", `"yaml" is not one of text, json`},
		{"snapshot save --snapshot-dir here", ExitUsage, "", `"here" is not an absolute path`},
		{"snapshot save --snapshot-s3", ExitUsage, "", "snapshot-s3-bucket: is needed with snapshot-s3"},
		{"snapshot verify --data-dir /d", ExitUsage, "", "needs NAME|FILE"},
		{"snapshot verify a --forec", ExitUsage, "", "-forec"},
		{"datastore import", ExitUsage, "", "needs SOURCE"},
		{"datastore export --format etdc f", ExitUsage, "", "did you mean etcd?"},
		{"datastore export f g", ExitUsage, "", "takes one file, but has 2 arguments"},
	} {
		t.Run(c.args, func(t *testing.T) {
			t.Parallel()
			r := newRun(t)
			var called string
			r.app.Actions.Datastore = func(_ io.Writer, cfg config.Server) DatastoreActions {
				return fakeDatastore{config: cfg, called: &called}
			}
			if code := r.run(strings.Fields(c.args)...); code != c.code || called != c.called {
				t.Errorf("exit %d, called %q; want %d, %q", code, called, c.code, c.called)
			}
			if !strings.Contains(r.stderr.String(), c.stderr) {
				t.Errorf("stderr %q, want %q", &r.stderr, c.stderr)
			}
		})
	}
}

// What a command of the datastore fails with is its error, and exit code 1.
func TestDatastoreCommandFails(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	var called string
	r.app.Actions.Datastore = func(_ io.Writer, cfg config.Server) DatastoreActions {
		return fakeDatastore{config: cfg, called: &called, err: errAction}
	}
	if code := r.run("snapshot", "save"); code != ExitFailure || !strings.Contains(r.stderr.String(), "limpet snapshot save: "+errAction.Error()) {
		t.Errorf("exit %d, stderr %q", code, &r.stderr)
	}
}
