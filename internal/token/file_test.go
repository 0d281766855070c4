package token_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/limpetio/limpet/internal/token"
)

func TestReadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	for content, says := range map[string]string{
		bootstrap + "\n":                    "",
		"L10" + hash + "::" + bootstrap:     "",
		"\n":                                "empty",
		"secretword\n":                      "limpet token generate",
		strings.Repeat("x", 5000):           "larger than",
		bootstrap + "\nmore-secretword\n":   "white space",
		"abc123.0123456789secretword":       "has 20 characters",
		"L10" + hash + "::abc123.SECRETWOR": "has 9 characters",
	} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := token.ReadFile(file)
		if says == "" {
			if err != nil || got.Bootstrap() != bootstrap {
				t.Errorf("%q: %v, %v", content, got.ID(), err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), file) ||
			strings.Contains(strings.ToLower(err.Error()), "secretwor") {
			t.Errorf("%.20q: error %v has to say %q, name the file and hide the content", content, err, says)
		}
	}
	if _, err := token.ReadFile(dir); err == nil || !strings.Contains(err.Error(), "directory") {
		t.Errorf("a directory: %v", err)
	}
	if _, err := token.ReadFile(filepath.Join(dir, "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}
