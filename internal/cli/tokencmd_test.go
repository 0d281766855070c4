package cli

import (
	"testing"
	"time"
)

func TestParseTTL(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"0": 0, "5s": 5 * time.Second, "90m": 90 * time.Minute, "24h": 24 * time.Hour, "7d": 7 * 24 * time.Hour,
	} {
		if got, ok := parseTTL(text); !ok || got != want {
			t.Errorf("parseTTL(%q) = %v, %v; want %v", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "1x", "-1h", "-1d", "0d", "0s", "1s", "24", "d", "9999999d", "1h d"} {
		if got, ok := parseTTL(text); ok {
			t.Errorf("parseTTL(%q) = %v, want it refused", text, got)
		}
	}
}
