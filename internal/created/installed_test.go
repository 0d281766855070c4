package created

import (
	"slices"
	"testing"
)

func TestParseInstalled(t *testing.T) {
	t.Parallel()
	got, err := ParseInstalled("# by install.sh\n/opt/bin/\n/opt/bin/limpet\r\n\n/opt/bin/limpet\n/opt/with space")
	if want := []string{"/opt/bin/", "/opt/bin/limpet", "/opt/with space"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	for _, text := range []string{"/", "/usr", "/usr/", "relative/x", "/opt/../etc/passwd", "/opt//x", "/opt/bin//", "/opt/./x", " /opt/x"} {
		if got, err := ParseInstalled(text); err == nil {
			t.Errorf("%q: %q would be removed", text, got)
		}
	}
}
