package containerd

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/sirupsen/logrus"
)

// fatalTrap turns containerd's log.Fatal, which would end the whole process
// with its control plane, into an error of this component. Upstream calls it
// from goroutines of its own, when the CRI service or a listener fails.
type fatalTrap struct {
	mu   sync.Mutex
	last error
	hit  chan error
}

// trapFatal installs a trap on logrus's standard logger, which is the only one
// that containerd uses. The trap stays after its component has ended, because
// some of those goroutines end later; the next one replaces it.
func trapFatal() *fatalTrap {
	t := &fatalTrap{hit: make(chan error, 1)}
	std := logrus.StandardLogger()
	hooks := logrus.LevelHooks{}
	for level, list := range std.ReplaceHooks(logrus.LevelHooks{}) {
		for _, h := range list {
			if _, ours := h.(*fatalTrap); !ours {
				hooks[level] = append(hooks[level], h)
			}
		}
	}
	hooks.Add(t)
	std.ReplaceHooks(hooks)
	std.ExitFunc = t.exit
	return t
}

// Levels and Fire remember the message, which the exit function is not given.
func (*fatalTrap) Levels() []logrus.Level { return []logrus.Level{logrus.FatalLevel} }

func (t *fatalTrap) Fire(e *logrus.Entry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = errors.New(e.Message)
	if err, ok := e.Data[logrus.ErrorKey].(error); ok {
		t.last = fmt.Errorf("%s: %w", e.Message, err)
	}
	return nil
}

// exit takes the place of os.Exit: it ends only the goroutine that called Fatal.
func (t *fatalTrap) exit(int) {
	t.mu.Lock()
	err := t.last
	t.mu.Unlock()
	select {
	case t.hit <- err:
	default: // the first one counts
	}
	runtime.Goexit()
}
