package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/limpetio/limpet/internal/config"
)

// asLimpet makes the test binary be limpet with fake actions, for the tests
// that need a process to run: those of the shell completion.
const asLimpet = "LIMPET_TEST_BINARY_IS_LIMPET"

func TestMain(m *testing.M) {
	if os.Getenv(asLimpet) != "" {
		app := New(Actions{Kubectl: func(_ context.Context, args []string) error {
			// As kubectl's own completion answers.
			if len(args) > 1 && args[0] == "__complete" {
				fmt.Printf("pods-for-%s\tdescription\n:4\n", strings.Join(args[1:], "+"))
			}
			return nil
		}})
		os.Exit(app.Run(context.Background(), os.Args))
	}
	os.Exit(m.Run())
}

// run is an App with fake actions and what one command line did to it.
type run struct {
	app            *App
	stdout, stderr strings.Builder
	env            map[string]string
	server         *config.Server
	agent          *config.Agent
	checked        *config.Node
	passed         []string // arguments of kubectl or ctr, after its name
	status         Format
	// killed and uninstalled are what was to be removed.
	killed, uninstalled *Removal
	examined            *Examination
	err                 error // what the actions return
}

func newRun(t *testing.T) *run {
	r := &run{env: map[string]string{}}
	r.app = New(Actions{
		Server: func(_ context.Context, c config.Server) error { r.server = &c; return r.err },
		Agent:  func(_ context.Context, c config.Agent) error { r.agent = &c; return r.err },
		Kubectl: func(_ context.Context, args []string) error {
			r.passed = append([]string{"kubectl"}, args...)
			return r.err
		},
		Ctr: func(_ context.Context, args []string) error {
			r.passed = append([]string{"ctr"}, args...)
			return r.err
		},
		CheckArguments: func(*config.Loaded) error { return r.err },
		CheckConfig:    func(_ context.Context, _ io.Writer, c config.Node) error { r.checked = &c; return r.err },
		Status:         func(_ context.Context, _ io.Writer, f Format) error { r.status = f; return r.err },
		Kill:           func(_ context.Context, _ io.Writer, what Removal) error { r.killed = &what; return r.err },
		Doctor:         func(_ context.Context, _ io.Writer, e Examination) error { r.examined = &e; return r.err },
		Uninstall:      func(_ context.Context, _ io.Writer, what Removal) error { r.uninstalled = &what; return r.err },
	})
	r.app.Stdout, r.app.Stderr = &r.stdout, &r.stderr
	r.app.LookupEnv = func(k string) (string, bool) { v, ok := r.env[k]; return v, ok }
	r.app.Setenv = func(k, v string) error { r.env[k] = v; return nil }
	r.app.Hostname = func() (string, error) { return "Box", nil }
	r.app.DefaultConfigFile = t.TempDir() + "/config.yaml"
	return r
}

func (r *run) run(args ...string) int {
	return r.app.Run(context.Background(), append([]string{"/usr/local/bin/limpet"}, args...))
}

// started says which of the actions that start something ran.
func (r *run) started() string {
	switch {
	case r.server != nil:
		return "server"
	case r.agent != nil:
		return "agent"
	case r.passed != nil:
		return strings.Join(r.passed, " ")
	case r.checked != nil:
		return "check-config"
	case r.status != "":
		return "status " + string(r.status)
	}
	return ""
}

var errAction = errors.New("it broke")
