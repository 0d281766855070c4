package machine

import (
	"context"
	"fmt"
	"os"

	"github.com/limpetio/limpet/internal/component"
	"github.com/limpetio/limpet/internal/logging"
	"github.com/limpetio/limpet/internal/sdnotify"
)

// Announcer tells the init system, and a person at the terminal, that all is
// up. hint is what that person may try now.
func Announcer(n sdnotify.Notifier, hint string) component.Component {
	return component.Func("limpet", func(ctx context.Context, ready func()) error {
		n.Ready()
		n.Status("running; `limpet status` tells more")
		ready()
		if logging.Terminal(os.Stderr) {
			fmt.Fprintf(os.Stderr, "\nlimpet is up. Try:  %s\n\n", hint)
		}
		<-ctx.Done()
		return nil
	})
}

// Assembly adds components to a supervisor until the first error.
type Assembly struct {
	Supervisor *component.Supervisor
	Err        error
}

// Add adds a component.
func (a *Assembly) Add(c component.Component, spec component.Spec) {
	a.Do(func() error { return a.Supervisor.Add(c, spec) })
}

// Do takes a step of several additions.
func (a *Assembly) Do(step func() error) {
	if a.Err == nil {
		a.Err = step()
	}
}

// Added names the components that have been added so far.
func (a *Assembly) Added() []string {
	states := a.Supervisor.States()
	names := make([]string, len(states))
	for i := range states {
		names[i] = states[i].Name
	}
	return names
}
