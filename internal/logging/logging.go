// Package logging makes one log of many: our own parts log with slog,
// Kubernetes with klog, containerd and kine with logrus. All of it becomes slog
// records with a component attribute.
package logging

import (
	"context"
	"io"
	"log/slog"
	"os"
	"sync/atomic"

	"github.com/go-logr/logr"
	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// Options of the log.
type Options struct {
	// Debug shows limpet's own debug records and the upstream components'
	// informational ones, which are far too many for a box that writes to flash.
	Debug bool
	// Verbosity is klog's -v; above 0 it shows the upstream components'
	// informational records too.
	Verbosity int
	// Quiet leaves out our own informational records: a person at a terminal
	// reads the start-up timeline instead.
	Quiet bool
}

// Log is the log of the process.
type Log struct {
	// Root is the logger that our own parts derive theirs from.
	Root     *slog.Logger
	stopping *atomic.Bool
}

// Stopping hides upstream's messages from now on, unless they were asked for.
func (l Log) Stopping() { l.stopping.Store(true) }

// Setup installs the log for the whole process.
func Setup(w io.Writer, opts Options) Log {
	own := slog.LevelInfo
	switch {
	case opts.Debug:
		own = slog.LevelDebug
	case opts.Quiet:
		own = slog.LevelWarn
	}
	upstream := slog.LevelWarn
	if opts.Debug || opts.Verbosity > 0 {
		upstream = slog.Level(-opts.Verbosity)
	}
	stopping := new(atomic.Bool)
	root := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: own}))
	slog.SetDefault(root)

	var klogHandler slog.Handler = slog.NewTextHandler(w, &slog.HandlerOptions{Level: upstream, ReplaceAttr: upstreamLevel})
	if upstream > slog.LevelInfo {
		klogHandler = demoter{klogHandler, stopping}
	}
	setVerbosity(opts.Verbosity)
	klog.SetLoggerWithOptions(logr.FromSlogHandler(klogHandler.WithAttrs([]slog.Attr{slog.String("component", "kubernetes")})), klog.ContextualLogger(true))

	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.InfoLevel)
	if upstream > slog.LevelInfo {
		logrus.SetLevel(logrus.WarnLevel)
	}
	logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	logrus.AddHook(logrusHook{slog.New(klogHandler)})
	return Log{Root: root, stopping: stopping}
}

// Upstream returns ctx carrying a klog logger named after the component, for
// upstream code that logs through its context.
func Upstream(ctx context.Context, component string) context.Context {
	l := klog.Background()
	if h := logr.ToSlogHandler(l); h != nil {
		// klog.Background already carries component=kubernetes: name the part too.
		l = logr.FromSlogHandler(h.WithAttrs([]slog.Attr{slog.String("part", component)}))
	}
	return klog.NewContext(ctx, l)
}

// Terminal reports whether w is one a person looks at.
func Terminal(w *os.File) bool {
	info, err := w.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "" && os.Getenv("TERM") != "dumb"
}

// upstreamLevel prints klog's V(n), which logr maps to level -n, as DEBUG.
func upstreamLevel(_ []string, a slog.Attr) slog.Attr {
	if a.Key != slog.LevelKey {
		return a
	}
	if level, ok := a.Value.Any().(slog.Level); ok && level < slog.LevelInfo {
		return slog.String(slog.LevelKey, "DEBUG")
	}
	return a
}

// logrusHook hands logrus entries to slog.
type logrusHook struct{ log *slog.Logger }

func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h logrusHook) Fire(e *logrus.Entry) error {
	level := slog.LevelDebug
	switch {
	case e.Level <= logrus.ErrorLevel:
		level = slog.LevelError
	case e.Level == logrus.WarnLevel:
		level = slog.LevelWarn
	case e.Level == logrus.InfoLevel:
		level = slog.LevelInfo
	}
	attrs := make([]slog.Attr, 0, len(e.Data)+1)
	if _, named := e.Data["component"]; !named {
		attrs = append(attrs, slog.String("component", "containerd"))
	}
	for k, v := range e.Data {
		attrs = append(attrs, slog.Any(k, v))
	}
	h.log.LogAttrs(context.Background(), level, e.Message, attrs...)
	return nil
}
