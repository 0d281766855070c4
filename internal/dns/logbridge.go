package dns

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"slices"
	"strings"
)

// logBridge turns the JSON lines of CoreDNS's logger into records of ours.
type logBridge struct{ log *slog.Logger }

// Write takes one JSON object, as slog.JSONHandler writes it.
func (b *logBridge) Write(p []byte) (int, error) {
	var fields map[string]any
	if err := json.Unmarshal(p, &fields); err != nil {
		b.log.Info(strings.TrimSpace(string(p)))
		return len(p), nil //nolint:nilerr // logged as it is
	}
	text := func(key string) string {
		s, _ := fields[key].(string)
		delete(fields, key)
		return s
	}
	message, level := text(slog.MessageKey), parseLevel(text(slog.LevelKey))
	delete(fields, slog.TimeKey)
	if strings.Contains(message, "starting server with unsynced Kubernetes API") {
		level = slog.LevelDebug // we told it to: see quickStart
	}
	attrs := make([]slog.Attr, 0, len(fields))
	for _, key := range slices.Sorted(maps.Keys(fields)) {
		attrs = append(attrs, slog.Any(key, fields[key]))
	}
	b.log.LogAttrs(context.Background(), level, message, attrs...)
	return len(p), nil
}

func parseLevel(s string) slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(s)); err != nil {
		return slog.LevelError // FATAL
	}
	return l
}
