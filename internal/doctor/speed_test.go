package doctor

import (
	"strings"
	"testing"
	"time"
)

func TestRedactIsFastOnOddText(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"colons": strings.Repeat("a:", 1<<17), "schemes": strings.Repeat("a://", 1<<16), "names": strings.Repeat("token", 1<<16),
		"words": strings.Repeat("secret ", 1<<15), "base64": strings.Repeat("QUJD", 1<<16), "begin": strings.Repeat("-----BEGIN PRIVATE KEY", 1<<13),
		"log": strings.Repeat("time=2026-11-26T02:29:40.046Z level=INFO msg=\"component has stopped\" component=x\n", 1<<12),
	} {
		start := time.Now()
		NewRedactor("known secret").Redact(text)
		t.Logf("%s: %d bytes in %v", name, len(text), time.Since(start))
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: %d bytes take %v", name, len(text), took)
		}
	}
}
