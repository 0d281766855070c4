package config

import (
	"strings"
	"testing"
)

func TestServerToken(t *testing.T) {
	t.Parallel()
	for text, says := range map[string]string{
		"":                        "",
		"abcdef.0123456789abcdef": "",
		"passwordofshop17":        "limpet token generate",
		"abcdef.0123456789abcde":  "has 15 characters",
	} {
		s := Server{Node: Node{Token: text}}
		if err := s.Complete(func() (string, error) { return "n1", nil }); err != nil {
			t.Fatal(err)
		}
		err := s.Validate()
		switch {
		case says == "" && err != nil:
			t.Errorf("%q: %v", text, err)
		case says != "" && (err == nil || !strings.Contains(err.Error(), says)):
			t.Errorf("%q: %v has to say %q", text, err, says)
		case says != "" && strings.Contains(err.Error(), text):
			t.Errorf("%q: the error repeats it: %v", text, err)
		}
	}
}
